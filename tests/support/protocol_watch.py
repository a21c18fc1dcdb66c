"""A proxy's view of a protocol: messages, and those at which it may cut."""

from enum import StrEnum
from typing import Protocol


class Direction(StrEnum):
    TO_SERVER = "to server"
    TO_CLIENT = "to client"


class Point(StrEnum):
    """A message before which a connection can be cut. Before an answer means after the operation."""

    COMMIT = "commit"
    COMMITTED = "committed"
    FLUSH = "flush"
    PUBLISH = "publish"
    CONFIRM = "confirm"


# Bytes, and their point if a cut can precede them.
Piece = tuple[bytes, Point | None]


class Watch(Protocol):
    """Follows one connection from its first byte. The concatenated output equals the input."""

    def feed(self, direction: Direction, data: bytes) -> list[Piece]:
        """The complete messages; the rest is buffered.

        Raises:
            Garbled
        """
        ...


class Garbled(Exception):
    """The bytes violate the protocol."""


class Unwatched:
    """Any protocol: bytes pass through unparsed."""

    def feed(self, direction: Direction, data: bytes) -> list[Piece]:
        return [(data, None)]
