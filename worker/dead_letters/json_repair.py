"""The smallest repair of a body that is not JSON: a missing or surplus comma, a byte order mark.

Nothing else is repaired: only a person can decide what was meant.
"""

import json
from dataclasses import dataclass

from schemas.events import read_json

_BYTE_ORDER_MARK = "﻿"
_MOST_EDITS = 10


@dataclass(frozen=True, slots=True)
class Repair:
    """`edits` describe what was changed and where, without quotes from the body."""

    edits: tuple[str, ...]
    body: bytes


def repair(body: bytes) -> Repair | None:
    """The repair that makes a body JSON; None if there is none, or none is needed."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    edits: list[str] = []
    if text.startswith(_BYTE_ORDER_MARK):
        text = text.removeprefix(_BYTE_ORDER_MARK)
        edits.append("at the beginning: a byte order mark is taken out")
    for _ in range(_MOST_EDITS):
        if _is_json(text):
            return Repair(tuple(edits), text.encode()) if edits else None
        step = _step(text)
        if step is None:
            return None
        text, edit = step
        edits.append(edit)
    return None


def fault(body: bytes) -> str:
    """Where a body stops being JSON, with the parser's message. Quotes nothing from the body."""
    try:
        json.loads(body.decode())
    except UnicodeDecodeError as error:
        return f"byte {error.start} is no UTF-8"
    except json.JSONDecodeError as error:
        return f"line {error.lineno}, column {error.colno}: {error.msg}"
    except (ValueError, RecursionError):
        return "a number or a nesting beyond all bounds"
    return "a number or a character that is not allowed in JSON"


def _is_json(text: str) -> bool:
    try:
        read_json(text.encode())
    except ValueError:
        return False
    return True


def _step(text: str) -> tuple[str, str] | None:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        position, complaint = error.pos, error.msg
    except (ValueError, RecursionError):
        return None
    else:
        return None
    rest = text[position:].lstrip()
    before = text[:position].rstrip()
    if complaint.startswith("Expecting ',' delimiter") and rest[:1] == '"':
        return before + "," + text[len(before) :], f"{_place(text, len(before))}: a comma is put in"
    # Of a trailing comma the parser names the comma itself, or what follows it.
    comma = position if text[position : position + 1] == "," else len(before) - 1
    follows = text[comma + 1 :].lstrip()[:1]
    is_needless = text[comma : comma + 1] == "," and (
        follows in ("}", "]", "") or (before.endswith(",") and comma == position)
    )
    if is_needless:
        return text[:comma] + text[comma + 1 :], f"{_place(text, comma)}: a comma is taken out"
    return None


def _place(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    column = position - (text.rfind("\n", 0, position) + 1) + 1
    return f"line {line}, column {column}"
