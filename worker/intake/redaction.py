"""Removes copies of a secret from a body, without breaking its JSON.

A copy is the secret itself, also with JSON escapes or percent-encoding (in one another, three levels deep),
in base64 (of any alignment and alphabet), or in hexadecimal.
"""

import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from schemas.events import read_json
from worker.intake.json_bytes import Replacement, members, string_values, with_replaced

REDACTED = "***"

# A shorter secret may be part of a word, which would be damaged.
SHORTEST_SECRET = 8

# How many nested encodings of a text are undone.
_LEVELS = 3

# A string, closed or running to the end, or anything else but punctuation.
_PIECE = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[^\s{}\[\]:,"]+', re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_SHORT_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}

_REDACTED_STRING = f'"{REDACTED}"'.encode()
# A raw control character, which JSON does not allow: invalid JSON does not become valid.
_STILL_BROKEN = f'"{REDACTED}\x00"'.encode()


@dataclass(frozen=True, slots=True)
class _Copies:
    """The forms of one secret, plain and encoded."""

    plain: str
    encoded: tuple[str, ...]
    hexadecimal: str
    # Characters of the shortest; escapes and percent-encoding only add to them.
    shortest: int

    def are_in(self, text: str) -> bool:
        if self.plain in text or self.hexadecimal in text.lower():
            return True
        # base64 may be broken into lines.
        compact = "".join(text.split())
        return any(each in compact for each in self.encoded)


def without_secrets(body: bytes, secrets: Sequence[str]) -> bytes:
    """The body with `***` in place of each copy of a secret; everything else stays byte for byte.

    A string with an encoded copy goes as a whole. The result is JSON if, and only if, the body is.
    """
    copies = [_copies(secret) for secret in secrets if len(secret) >= SHORTEST_SECRET]
    if not copies:
        return body
    text = body.decode(errors="replace")
    has_plain = any(each.are_in(text) for each in copies)
    if not has_plain and b"\\" not in body and b"%" not in body:
        return body
    shortest = _shortest(copies)

    def cut(match: re.Match[bytes]) -> bytes:
        piece = match[0]
        if len(piece) < shortest or not (has_plain or b"\\" in piece or b"%" in piece):
            return piece
        return _without(piece, copies)

    return _PIECE.sub(cut, body)


def without_values(body: bytes, name: str) -> bytes:
    """The body with `***` in place of each value of a member of this name, also of JSON in a string.

    A null stays. The result is JSON if, and only if, the body is.
    """

    def redact_in(piece: bytes) -> bytes:
        return _with_string_redacted(piece, name)

    values = [each for each in members(body) if each.name == name]
    return with_replaced(
        body,
        (
            *(Replacement(value.value_start, value.end, _redacted) for value in values),
            *(Replacement(start, end, redact_in) for start, end in string_values(body)),
        ),
    )


def _redacted(value: bytes) -> bytes:
    try:
        return value if read_json(value) is None else _REDACTED_STRING
    except ValueError:
        return _STILL_BROKEN if value.strip() else value


def _with_string_redacted(piece: bytes, name: str) -> bytes:
    """A string, in its quotes, without such values of the JSON in it."""
    # JSON in a string has its quotes escaped.
    if b"\\" not in piece:
        return piece
    try:
        text = json.loads(piece.decode())
    except ValueError:
        inner = _unescaped(piece[1:].decode(errors="replace")).encode(errors="surrogatepass")
        return piece if without_values(inner, name) == inner else _STILL_BROKEN
    inner = text.encode(errors="surrogatepass")
    redacted = without_values(inner, name).replace(_STILL_BROKEN, _REDACTED_STRING)
    return piece if redacted == inner else json.dumps(redacted.decode(errors="surrogatepass")).encode()


def _without(piece: bytes, copies: Sequence[_Copies]) -> bytes:
    if not piece.startswith(b'"'):
        return _without_in_number(piece, copies)
    try:
        text = json.loads(piece.decode())
        text.encode()
    except ValueError:
        return _without_in_broken(piece, copies)
    if not _are_in(text, copies):
        return piece
    for each in copies:
        text = text.replace(each.plain, REDACTED)
    if _are_in(text, copies):
        text = REDACTED
    return json.dumps(text).encode()


def _without_in_number(piece: bytes, copies: Sequence[_Copies]) -> bytes:
    contained = [each.plain.encode() for each in copies if each.plain.encode() in piece]
    if not contained:
        return piece
    try:
        read_json(piece)
    except ValueError:
        for secret in contained:
            piece = piece.replace(secret, REDACTED.encode())
        return piece
    return json.dumps(REDACTED).encode()


def _without_in_broken(piece: bytes, copies: Sequence[_Copies]) -> bytes:
    text = piece.decode(errors="replace")
    has_copy = _are_in(text, copies)
    return _STILL_BROKEN if has_copy else piece


def _are_in(text: str, copies: Sequence[_Copies]) -> bool:
    return any(each.are_in(one) for one in _decoded(text, _shortest(copies)) for each in copies)


def _shortest(copies: Sequence[_Copies]) -> int:
    return min(each.shortest for each in copies)


def _decoded(text: str, shortest: int) -> Iterator[str]:
    """A text, and its forms once encodings are undone, unless they are too short."""
    seen = {text}
    latest = [text]
    yield text
    for _ in range(_LEVELS):
        undone = [undo(each) for each in latest for undo, mark in _UNDOING if mark in each]
        latest = [each for each in dict.fromkeys(undone) if len(each) >= shortest and each not in seen]
        seen.update(latest)
        yield from latest


def _unescaped(text: str) -> str:
    def character(escape: re.Match[str]) -> str:
        code, short = escape.groups()
        return chr(int(code, 16)) if code else _SHORT_ESCAPES.get(short, short)

    return _ESCAPE.sub(character, text)


_UNDOING = ((_unescaped, "\\"), (unquote, "%"))


@lru_cache(maxsize=64)
def _copies(secret: str) -> _Copies:
    data = secret.encode()
    encoded: dict[str, None] = {}
    for encode in (b64encode, urlsafe_b64encode):
        for before in range(3):
            # The characters at both ends share bits with their neighbours.
            whole = encode(bytes(before) + data).decode().rstrip("=")
            first = (before * 8 + 5) // 6
            last = (before + len(data)) * 8 // 6
            encoded[whole[first:last]] = None
    shortest = min(map(len, (secret, *encoded)))
    return _Copies(secret, tuple(encoded), data.hex(), shortest)
