"""The documents as data: their links, headings and code blocks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]

DOCUMENTS = sorted(
    path
    for path in CHECKOUT.rglob("*.md")
    if not any(part.startswith(".") or part == "node_modules" for part in path.relative_to(CHECKOUT).parts)
)

WITH_COMMANDS = [
    CHECKOUT / "README.md",
    CHECKOUT / "docs/quickstart.md",
    *sorted((CHECKOUT / "docs/guides").glob("*.md")),
]
"""The documents whose commands run in a test, unless they need more than this repository."""

RUNBOOKS = sorted((CHECKOUT / "deploy/runbooks").glob("*.md"))

_FENCE = re.compile(
    r"^(?:<!-- (?P<marker>[^\n]*) -->\n)?```(?P<language>[a-z]*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"`[^`\n]*`")
_HEADING = re.compile(r"^#{1,6} (?P<text>.+)$", re.MULTILINE)
_NOT_IN_ANCHORS = re.compile(r"[^\w\- ]")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block; the marker is the comment in the line above it, such as `needs: docker`."""

    language: str
    marker: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Lines of a shell script without comments; continued lines are joined."""
        joined = self.text.replace("\\\n", " ").splitlines()
        without_comments = (re.sub(r"(^|\s+)#(?=\s).*$", "", line).strip() for line in joined)
        return [line for line in without_comments if line]


def name_of(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


def blocks(text: str) -> list[Block]:
    return [Block(match["language"], match["marker"] or "", match["text"]) for match in _FENCE.finditer(text)]


def fences(text: str) -> list[str]:
    """What stands behind the backticks of each line that begins or ends a block, also if it is indented."""
    return re.findall(r"^[ \t]*```(.*)$", text, re.MULTILINE)


def without_blocks(text: str) -> str:
    return _FENCE.sub("", text)


def links(text: str) -> list[str]:
    return _LINK.findall(_CODE.sub("", without_blocks(text)))


def code_spans(text: str) -> list[str]:
    return [span.strip("`") for span in _CODE.findall(without_blocks(text).replace("\n", " "))]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub creates for the headings."""
    return set(_anchors(text))


def _anchors(text: str) -> Iterator[str]:
    seen: dict[str, int] = {}
    for match in _HEADING.finditer(without_blocks(text)):
        anchor = _NOT_IN_ANCHORS.sub("", match["text"].lower()).strip().replace(" ", "-")
        count = seen.get(anchor, 0)
        seen[anchor] = count + 1
        yield f"{anchor}-{count}" if count else anchor
