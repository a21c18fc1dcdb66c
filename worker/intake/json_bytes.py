"""Edits of the bytes of a JSON body, so that everything else is stored as it was received.

The scan is lexical: it finds the same members in a valid document as a parser does, and still finds
those that a broken document has before and after its fault.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

# A string, closed or running to the end, or a structural character. Each byte is looked at once:
# also an unterminated string is consumed whole.
_LEXEME = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[{}\[\]:,]', re.DOTALL)

# What precedes a bracket, with whole strings, and the bracket.
_TO_BRACKET = re.compile(
    rb'[^"{}\[\]]*+(?:"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)[^"{}\[\]]*+)*+[{}\[\]]', re.DOTALL
)

_STRING = re.compile(rb'(?P<string>"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z))(?P<colon>\s*+:)?', re.DOTALL)


class Member(NamedTuple):
    """A name and its value in an object `depth` levels deep, with the white space around it."""

    name: str
    depth: int
    start: int
    value_start: int
    end: int


class Replacement(NamedTuple):
    """A piece of a body, and what makes the new piece of it."""

    start: int
    end: int
    replace: Callable[[bytes], bytes]


@dataclass(slots=True)
class _Container:
    is_object: bool
    member_start: int
    name: str | None = None
    value_start: int | None = None


def members(body: bytes, deepest: int | None = None) -> Iterator[Member]:
    """Every member of every object, inner ones before the one that holds them.

    Those that are more than `deepest` levels deep are skipped, which is faster.
    """
    stack: list[_Container] = []
    lexemes = _LEXEME.finditer(body)
    while lexeme := next(lexemes, None):
        start, position = lexeme.span()
        mark = body[start]
        if mark in b"{[":
            if len(stack) == deepest:
                lexemes = _LEXEME.finditer(body, _end_of_container(body, position))
            else:
                stack.append(_Container(mark == ord("{"), position))
            continue
        if not stack:
            continue
        container = stack[-1]
        if mark == ord('"'):
            if container.is_object and container.name is None:
                container.name = _name(lexeme[0])
        elif mark == ord(":"):
            if container.value_start is None:
                container.value_start = position
        else:
            if container.name is not None and container.value_start is not None:
                yield Member(container.name, len(stack), container.member_start, container.value_start, start)
            container.name = container.value_start = None
            container.member_start = position
            if mark != ord(","):
                stack.pop()
    while stack:
        container = stack.pop()
        if container.name is not None and container.value_start is not None:
            yield Member(
                container.name, len(stack) + 1, container.member_start, container.value_start, len(body)
            )


def _end_of_container(body: bytes, position: int) -> int:
    """Behind the bracket that closes it; `position` is behind the one that opens it."""
    depth = 1
    while depth:
        bracket = _TO_BRACKET.match(body, position)
        if bracket is None:
            return len(body)
        position = bracket.end()
        depth += 1 if body[position - 1] in b"{[" else -1
    return position


def _name(quoted: bytes) -> str:
    if b"\\" in quoted:
        try:
            return str(json.loads(quoted))
        except ValueError:
            return ""
    return quoted.strip(b'"').decode(errors="replace")


def top_level_string(body: bytes, name: str) -> str | None:
    """The last value of this name in the outermost object, if it is a string."""
    matches = [member for member in members(body, deepest=1) if member.name == name]
    if not matches:
        return None
    try:
        value = json.loads(body[matches[-1].value_start : matches[-1].end])
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, str) else None


def may_be_values(body: bytes, name: str) -> set[bytes]:
    """Each string, in its quotes, that may be a value of this name, at any depth or in another string.

    Faster than a scan of the members, and it finds what `top_level_string` finds, unless another string
    stands between the name and its colon.
    """
    return set(_value_of(name).findall(body))


@lru_cache(maxsize=8)
def _value_of(name: str) -> re.Pattern[bytes]:
    """A name of ASCII letters, each possibly escaped, its colon, and a string.

    It only looks ahead: a match starts behind another's start, not behind its end.
    """
    spelled = "".join(f"(?:{letter}|\\\\u(?i:{ord(letter):04x}))" for letter in name)
    value = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
    return re.compile(rf'(?="{spelled}"[^"{{}}\[\]:,]*+:[ \t\n\r]*+({value}))'.encode(), re.DOTALL)


def without_member(body: bytes, name: str) -> bytes:
    """The body with every member of this name cut out of the outermost object; else byte for byte."""
    top = list(members(body, deepest=1))
    if all(member.name != name for member in top):
        return body
    remaining = [body[member.start : member.end] for member in top if member.name != name]
    return body[: top[0].start] + b",".join(remaining) + body[top[-1].end :]


def string_values(body: bytes) -> Iterator[tuple[int, int]]:
    """Where strings begin and end that are values: of members, or in lists."""
    for string in _STRING.finditer(body):
        if string["colon"] is None:
            yield string.span("string")


def with_replaced(body: bytes, replacements: Iterable[Replacement]) -> bytes:
    """The body with these pieces replaced; of pieces in one another, the outer one."""
    pieces: list[bytes] = []
    done = 0
    for each in sorted(replacements, key=lambda each: (each.start, -each.end)):
        if each.start >= done:
            pieces += body[done : each.start], each.replace(body[each.start : each.end])
            done = each.end
    return b"".join((*pieces, body[done:]))
