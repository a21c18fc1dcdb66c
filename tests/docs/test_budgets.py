"""What an addition may cost: the guides list each file that it takes, and the lists stay short.

tests/e2e/test_sample_marketplace.py adds a marketplace, and compares the files with the guide.
"""

import re

import pytest

from tests.docs.markdown import CHECKOUT, code_spans

MOST_FILES = {"adding-an-event-type": 12, "adding-a-marketplace": 20}
GENERATED = "`make docs` writes"


@pytest.mark.parametrize("guide", MOST_FILES)
def test_an_addition_takes_few_files_by_hand(guide: str) -> None:
    page = (CHECKOUT / f"docs/guides/{guide}.md").read_text()
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|$", page, re.MULTILINE)
    by_hand = {name for names, content in rows if GENERATED not in content for name in code_spans(names)}

    assert len(by_hand) > 4
    assert len(by_hand) <= MOST_FILES[guide]
