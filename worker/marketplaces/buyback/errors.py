"""The parts of a refusal that may be shown: it may quote the request, with bank details."""

import re
from collections.abc import Iterator

from schemas.events import read_json
from worker.observability.inert_text import visible

LONGEST_TITLE = 120
MOST_MEMBERS = 10


def title(body: bytes) -> str:
    """The title of a problem document (RFC 9457) on one line; empty if there is none."""
    text = _problem(body).get("title")
    if not isinstance(text, str):
        return ""
    return visible(text.strip())[:LONGEST_TITLE]


def refused_members(body: bytes, sent: bytes) -> list[str]:
    """The members that `errors` of a problem document names, if they are members of what was sent."""
    errors = _problem(body).get("errors")
    if not isinstance(errors, dict):
        return []
    sent_names = {name.lower() for name in _names(read_json(sent))}
    named = [str(path) for path in errors]
    return [path for path in named if _is_of(sent_names, path)][:MOST_MEMBERS]


def _problem(body: bytes) -> dict[str, object]:
    try:
        document = read_json(body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _is_of(names_sent: set[str], path: str) -> bool:
    """Paths come as `bankAccount.accountNumber`, `$.slots[0].finalSlot` and the like."""
    parts = [part for part in re.split(r"[.\[\]$]", path.lower()) if part]
    names = [part for part in parts if not (part.isdecimal() and len(part) < 3)]
    return bool(names) and names_sent.issuperset(names)


def _names(document: object) -> Iterator[str]:
    match document:
        case dict():
            yield from document
            for member in document.values():
                yield from _names(member)
        case list():
            for member in document:
                yield from _names(member)
