"""Postgres's protocol 3, message by message.

A message: type (1 byte), length without the type (4), body. The first message of a client has no type;
the answer to a request for encryption is a single byte without both.
"""

import struct
from dataclasses import dataclass

from tests.support.protocol_watch import Direction, Garbled, Piece, Point

_LENGTH = struct.Struct("!I")
_FIRST = struct.Struct("!II")

SSL_REQUEST = 80877103
GSS_REQUEST = 80877104
LONGEST_MESSAGE = 2**30

SIMPLE_QUERY = b"Q"
COMMIT_WORD = b"COMMIT"
FLUSH_FUNCTION = b"pg_logical_emit_message"
COMMAND_COMPLETE = b"C"


@dataclass(slots=True)
class PostgresWatch:
    """Detects a COMMIT to the server, the server's confirmation, and the flush that makes it durable."""

    _to_server: bytes = b""
    _to_client: bytes = b""
    _is_started: bool = False
    _single_bytes: int = 0

    def feed(self, direction: Direction, data: bytes) -> list[Piece]:
        match direction:
            case Direction.TO_SERVER:
                pieces, self._to_server = self._cut_up(self._to_server + data, direction)
            case Direction.TO_CLIENT:
                pieces, self._to_client = self._cut_up(self._to_client + data, direction)
        return pieces

    def _cut_up(self, buffer: bytes, direction: Direction) -> tuple[list[Piece], bytes]:
        """The complete messages, and the rest."""
        pieces: list[Piece] = []
        start = 0
        while (end := self._end(buffer, start, direction)) is not None:
            message = buffer[start:end]
            pieces.append((message, _point(direction, message)))
            start = end
        return pieces, buffer[start:]

    def _end(self, buffer: bytes, start: int, direction: Direction) -> int | None:
        if start == len(buffer):
            return None
        if direction is Direction.TO_SERVER and not self._is_started:
            return self._end_of_first(buffer, start)
        if direction is Direction.TO_CLIENT and self._single_bytes:
            self._single_bytes -= 1
            return start + 1
        return _whole(buffer, start, start + 1)

    def _end_of_first(self, buffer: bytes, start: int) -> int | None:
        end = _whole(buffer, start, start)
        if end is not None:
            _, code = _FIRST.unpack_from(buffer, start)
            if code in (SSL_REQUEST, GSS_REQUEST):
                self._single_bytes += 1
            else:
                self._is_started = True
        return end


def _whole(buffer: bytes, start: int, length_at: int) -> int | None:
    """The end of the message whose length is at `length_at`; None if it is incomplete."""
    if len(buffer) < length_at + _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(buffer, length_at)
    if not _LENGTH.size <= length < LONGEST_MESSAGE:
        raise Garbled(f"a Postgres message of {length} bytes at {start}")
    end: int = length_at + length
    return end if end <= len(buffer) else None


def _point(direction: Direction, message: bytes) -> Point | None:
    is_query = direction is Direction.TO_SERVER and message[:1] == SIMPLE_QUERY
    if is_query and FLUSH_FUNCTION in message:
        return Point.FLUSH
    text = message[5:11].upper()
    if text != COMMIT_WORD:
        return None
    if is_query:
        return Point.COMMIT
    if direction is Direction.TO_CLIENT and message[:1] == COMMAND_COMPLETE:
        return Point.COMMITTED
    return None
