"""The documents that people read first stay short."""

import re

import pytest

from tests.docs.markdown import CHECKOUT

LIMITS = {
    "README.md": 900,
    "docs/quickstart.md": 700,
    "docs/concepts.md": 1200,
    "docs/when-to-use.md": 400,
    "docs/design/console.md": 850,
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_document_is_no_longer_than_allowed(name: str) -> None:
    count = len(re.findall(r"\S*\w\S*", (CHECKOUT / name).read_text()))

    assert count <= LIMITS[name]


def test_each_page_is_on_the_map() -> None:
    index = (CHECKOUT / "docs/index.md").read_text()
    pages = {
        str(path.relative_to(CHECKOUT / "docs"))
        for path in (CHECKOUT / "docs").rglob("*.md")
        if path.name != "index.md"
    }

    assert {page for page in pages if f"({page})" not in index} == set()
