"""Undoes the Content-Encoding of a body, within the limit for bodies."""

import zlib
from collections.abc import Sequence

from schemas.events import read_json

# Not encoded at all. The last ones are not codings, but senders use them.
_PLAIN = frozenset({"", "identity", "none", "utf-8", "utf8"})

_GZIP = 16 + zlib.MAX_WBITS
_ZLIB = zlib.MAX_WBITS
# Some senders' deflate lacks zlib's header.
_RAW_DEFLATE = -zlib.MAX_WBITS

# Repeated and nested codings. No known sender uses either, and each costs time.
MOST_MEMBERS = 16
MOST_CODINGS = 3


class NotDecoded(Exception):
    """The bytes are neither what the header says nor JSON."""


class TooLarge(Exception):
    """The decoded body is over the limit."""


def decoded(body: bytes, header: str, limit: int) -> bytes:
    """Undo what a Content-Encoding header names. JSON is taken whatever the header says.

    Raises:
        NotDecoded
        TooLarge
    """
    codings = _codings(header)
    if not codings:
        return body
    try:
        return _all_undone(body, codings, limit)
    except zlib.error:
        return _if_json(body)


def inflated(body: bytes, header: str, limit: int) -> bytes | None:
    """The same for a sender that is not authenticated yet: nothing is parsed.

    None if nothing is encoded, or if it cannot be undone within the limit.
    """
    codings = _codings(header)
    try:
        return _all_undone(body, codings, limit) if codings else None
    except (zlib.error, TooLarge):
        return None


def is_encoded(header: str) -> bool:
    """Whether a Content-Encoding header names anything to undo."""
    return bool(_codings(header))


def _codings(header: str) -> list[str]:
    return [coding for part in header.split(",") if (coding := part.strip().lower()) not in _PLAIN]


def _all_undone(body: bytes, codings: Sequence[str], limit: int) -> bytes:
    """Raises: zlib.error, TooLarge."""
    if len(codings) > MOST_CODINGS:
        raise zlib.error("too many codings")
    for coding in reversed(codings):
        body = _undone(body, coding, limit)
    return body


def _undone(body: bytes, coding: str, limit: int) -> bytes:
    """Raises: zlib.error, TooLarge."""
    match coding:
        case "gzip" | "x-gzip":
            return _inflated(body, _GZIP, limit)
        case "deflate":
            try:
                return _inflated(body, _ZLIB, limit)
            except zlib.error:
                return _inflated(body, _RAW_DEFLATE, limit)
        case _:
            raise zlib.error("an unknown coding")


def _inflated(body: bytes, window: int, limit: int) -> bytes:
    """Never makes more than one byte too many. Raises: zlib.error, TooLarge."""
    inflated = bytearray()
    for _ in range(MOST_MEMBERS):
        decoder = zlib.decompressobj(window)
        inflated += decoder.decompress(body, limit + 1 - len(inflated))
        if len(inflated) > limit:
            raise TooLarge
        if not decoder.eof:
            raise zlib.error("cut short")
        body = decoder.unused_data
        if not body:
            return bytes(inflated)
    raise zlib.error("too many members")


def _if_json(body: bytes) -> bytes:
    """Raises: NotDecoded."""
    try:
        read_json(body)
    except ValueError:
        raise NotDecoded from None
    return body
