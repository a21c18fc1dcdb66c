"""The pictures that documents show are those that `make screenshots` makes."""

import re
from pathlib import Path

import pytest

from tests.docs.markdown import CHECKOUT, DOCUMENTS, name_of
from tests.screenshots import IMAGES, MOST_BYTES, PICTURES

SHOWN = re.compile(r"(?:src|srcset)=\"(?P<source>[^\"\s]+)\"|!\[[^\]]*\]\((?P<link>[^)\s]+)\)")
MADE = {IMAGES / file for picture in PICTURES for file in picture.files}


def shown(document: Path) -> set[Path]:
    """The pictures of this repository that a document shows."""
    named = (match["source"] or match["link"] for match in SHOWN.finditer(document.read_text()))
    return {(document.parent / name).resolve() for name in named if "://" not in name}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_each_picture_in_a_document_is_made_by_the_script(document: Path) -> None:
    assert shown(document) <= MADE, "list it in tests/screenshots.py"
    assert [picture for picture in shown(document) if not picture.exists()] == [], "run `make screenshots`"


def test_each_picture_is_made_by_the_script_and_small() -> None:
    pictures = set(IMAGES.glob("*")) if IMAGES.exists() else set()

    assert pictures <= MADE
    assert [picture.name for picture in pictures if picture.stat().st_size > MOST_BYTES] == []


def test_a_picture_is_shown_in_both_colour_schemes() -> None:
    used = {picture for document in DOCUMENTS for picture in shown(document)}
    pairs = [{IMAGES / file for file in picture.files} for picture in PICTURES]

    assert [pair for pair in pairs if pair & used and not pair <= used] == []
    assert CHECKOUT in IMAGES.parents
