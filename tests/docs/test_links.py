"""Links lead somewhere, and what the code and the documents cite exists."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.markdown import CHECKOUT, DOCUMENTS, anchors, code_spans, links, name_of

EXTERNAL = CHECKOUT / "tests/docs/external_links.txt"
"""Every link that leaves the repository. Nothing fetches them: look at a new one before you add it."""

ROOTS = ("worker", "consumers", "schemas", "tests", "deploy", "docs")
CODE = (
    *("*.py", "*.sql", "*.toml", "*.yml", "*.yaml", "*.service", "*.conf", "*.cfg"),
    *("Dockerfile", "Makefile", "bootstrap"),
)
CITED = re.compile(r"(?<![\w./*-])(?P<name>[A-Za-z0-9_][\w./-]*\.md)\b(?:#(?P<anchor>[\w-]+))?(?!\w)")
HEADING = re.compile(r"\.md, (?:[\"“'][^\"”']+|[A-Z]\w+)")
PATH = re.compile(rf"(?:{'|'.join(ROOTS)})/[\w./-]+")
INVENTED = re.compile(r"offers|sample|order[._]shipped")
"""What the guides about additions add as their examples."""
TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_each_link_inside_the_repository_resolves_with_its_anchor(path: Path) -> None:
    broken = []
    for link in links(path.read_text()):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(link)

    assert not broken


def test_each_external_link_is_listed() -> None:
    external = {link for path in DOCUMENTS for link in links(path.read_text()) if "://" in link}

    assert sorted(external) == EXTERNAL.read_text().splitlines()


def code() -> Iterator[Path]:
    for pattern in CODE:
        for path in CHECKOUT.rglob(pattern):
            if not any(part.startswith(".") for part in path.relative_to(CHECKOUT).parts):
                yield path


def resolves(path: Path, citation: re.Match[str]) -> bool:
    name, anchor = citation["name"], citation["anchor"]
    if "/" not in name and path.is_relative_to(CHECKOUT / "tests"):
        return True  # The name of a file in a folder that the test made, or in another variable.
    for folder in (CHECKOUT, path.parent):
        if (folder / name).exists():
            return anchor is None or anchor in anchors((folder / name).read_text())
    return False


def test_each_document_that_the_code_cites_exists_with_its_anchor() -> None:
    missing = [
        f"{name_of(path)}: {citation[0]}"
        for path in code()
        for citation in CITED.finditer(path.read_text())
        if not resolves(path, citation)
    ]

    assert not missing


def test_the_code_cites_a_section_by_its_anchor() -> None:
    """Nothing could check a heading in quotes."""
    by_heading = [
        f"{name_of(path)}: {heading}"
        for path in code()
        if not path.is_relative_to(CHECKOUT / "tests")
        for heading in HEADING.findall(path.read_text())
    ]

    assert not by_heading


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_each_file_that_a_document_names_exists(path: Path) -> None:
    spans = [span for span in code_spans(path.read_text()) if PATH.match(span)]
    named = {span.partition("::")[0].partition("#")[0].rstrip("/") for span in spans}
    made = {name for name in named if name.startswith("deploy/secrets") or set(name) & set(" <{*…")}
    made |= {name for name in named if path.stem.startswith("adding-") and INVENTED.search(name)}
    missing = {name for name in named - made if not _exists(path, name)}

    assert not missing


def _exists(document: Path, name: str) -> bool:
    return any((folder / name).exists() for folder in (CHECKOUT, document.parent))


def test_each_test_that_a_document_cites_exists() -> None:
    cited = {test for path in DOCUMENTS for test in TEST.findall(path.read_text())}
    missing = [
        f"{file}::{name}"
        for file, name in sorted(cited)
        if not re.search(rf"^(async )?def {name}\(", (CHECKOUT / file).read_text(), re.MULTILINE)
    ]

    assert cited
    assert not missing
