"""Differences between two bodies, as lines; for readers with each value hidden. Pure.

A body may be one long line, and need not be JSON. So it is laid out by its tokens, one member or element per
line: white space between tokens is not shown, and makes no difference.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum

from worker.dead_letters.json_repair import Repair
from worker.dead_letters.redaction import shown_name

# Equal lines that are shown before and after a difference.
CONTEXT = 3

# Beyond this number of lines, comparing takes too long, and reading, too.
MOST_COMPARED = 600
MOST_SHOWN = 400

# Of the diff of a repair; the page of a letter makes it each time that it is shown.
LONGEST_REPAIRED = 65_536

_BYTE_ORDER_MARK = "\ufeff"

# A string, also one that never ends; a mark of punctuation; or anything else up to the next of these.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
_OPENING, _CLOSING = frozenset("{["), frozenset("}]")
_MARKS = _OPENING | _CLOSING | {",", ":"}

# Deeper levels are not indented further.
DEEPEST = 40


class Sign(StrEnum):
    SAME = " "
    REMOVED = "-"
    ADDED = "+"
    GAP = "…"


@dataclass(frozen=True, slots=True)
class DiffLine:
    """`text` of a gap says how many lines are left out."""

    sign: Sign
    text: str


def repair_diff(body: bytes, proposal: Repair) -> tuple[DiffLine, ...] | None:
    """What a repair does, with each value hidden; None if that cannot be shown safely, or soon.

    A repair adds and removes commas between values. So the tokens of the repaired body, which is JSON, are
    also those of the body.
    """
    if len(body) > LONGEST_REPAIRED:
        return None
    before, after = body.decode(), proposal.body.decode()
    tokens_before, tokens_after = _tokens(before.removeprefix(_BYTE_ORDER_MARK)), _tokens(after)
    if _without_commas(tokens_before) != _without_commas(tokens_after):
        return None
    mark = [_BYTE_ORDER_MARK] if before.startswith(_BYTE_ORDER_MARK) else []
    return _diff(mark + _lines(_hidden(tokens_before)), _lines(_hidden(tokens_after)))


def edit_diff(before: bytes, after: bytes) -> tuple[DiffLine, ...]:
    """Everything that differs, with its values. Empty if only white space between tokens does."""
    texts = (body.decode(errors="backslashreplace") for body in (before, after))
    return _diff(*(_lines(_tokens(text)) for text in texts))


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text)


def _without_commas(tokens: Iterable[str]) -> list[str]:
    return [token for token in tokens if token != ","]


def _hidden(tokens: Sequence[str]) -> list[str]:
    """The tokens of JSON, with what they hold hidden, but for documented names of members."""
    following = [*tokens[1:], ""]
    return [_hidden_token(token, after == ":") for token, after in zip(tokens, following, strict=True)]


def _hidden_token(token: str, is_name: bool) -> str:
    if token in _MARKS or token == "null":
        return token
    if not token.startswith('"'):
        return "<boolean>" if token in ("true", "false") else "<number>"
    text = json.loads(token)
    if is_name:
        return json.dumps(shown_name(text))
    return json.dumps(f"<{len(text)} characters>" if text else "")


def _lines(tokens: Sequence[str]) -> list[str]:
    """One line per member and element, indented; also of a body that is no JSON."""
    lines: list[str] = []
    line, depth, previous = "", 0, ""
    for token in tokens:
        if _starts_line(previous, token):
            lines.append(line)
            line = ""
        if token in _CLOSING:
            depth = max(0, depth - 1)
        if not line:
            line = "  " * min(depth, DEEPEST)
        line += f"{token} " if token == ":" else token
        if token in _OPENING:
            depth += 1
        previous = token
    return [*lines, line] if line else lines


def _starts_line(previous: str, token: str) -> bool:
    if not previous or token in (",", ":"):
        return False
    if previous in _OPENING:
        return token not in _CLOSING
    # A value that follows another lacks its comma.
    return token in _CLOSING or previous != ":"


def _diff(before: list[str], after: list[str]) -> tuple[DiffLine, ...]:
    if before == after:
        return ()
    start = _equal(before, after)
    end = _equal(before[start:][::-1], after[start:][::-1])
    old, new = before[start : len(before) - end], after[start : len(after) - end]
    head, tail = before[:start], before[len(before) - end :]
    changed = _with_gaps(
        [
            *(DiffLine(Sign.SAME, text) for text in head),
            *_changed(old, new),
            *(DiffLine(Sign.SAME, text) for text in tail),
        ]
    )
    if len(changed) <= MOST_SHOWN:
        return tuple(changed)
    return (*changed[:MOST_SHOWN], _gap(len(changed) - MOST_SHOWN))


def _equal(one: Sequence[str], other: Sequence[str]) -> int:
    """How many lines are equal from the start."""
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)


def _changed(old: list[str], new: list[str]) -> list[DiffLine]:
    if max(len(old), len(new)) > MOST_COMPARED:
        return [
            *(DiffLine(Sign.REMOVED, text) for text in old),
            *(DiffLine(Sign.ADDED, text) for text in new),
        ]
    lines: list[DiffLine] = []
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    for tag, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        if tag == "equal":
            lines += [DiffLine(Sign.SAME, text) for text in old[old_start:old_end]]
            continue
        lines += [DiffLine(Sign.REMOVED, text) for text in old[old_start:old_end]]
        lines += [DiffLine(Sign.ADDED, text) for text in new[new_start:new_end]]
    return lines


def _with_gaps(lines: Sequence[DiffLine]) -> list[DiffLine]:
    """Only the differences and the lines near them."""
    changed = [place for place, line in enumerate(lines) if line.sign is not Sign.SAME]
    near = sorted(
        {
            place
            for change in changed
            for place in range(max(0, change - CONTEXT), min(len(lines), change + CONTEXT + 1))
        }
    )
    shown: list[DiffLine] = []
    after = 0
    for place in near:
        if place > after:
            shown.append(_gap(place - after))
        shown.append(lines[place])
        after = place + 1
    if after < len(lines):
        shown.append(_gap(len(lines) - after))
    return shown


def _gap(lines: int) -> DiffLine:
    return DiffLine(Sign.GAP, "1 line" if lines == 1 else f"{lines:,} lines")
