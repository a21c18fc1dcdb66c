"""What a proxy can see of the protocol that it passes on: messages, and those at which it may cut."""

from enum import StrEnum
from typing import Protocol


class Direction(StrEnum):
    TO_SERVER = "to server"
    TO_CLIENT = "to client"


class Point(StrEnum):
    """A message before which a connection can be cut. For an answer this is after the deed."""

    COMMIT = "commit"
    COMMITTED = "committed"
    PUBLISH = "publish"
    CONFIRM = "confirm"


# Some bytes, and what they are if a cut can come before them.
Piece = tuple[bytes, Point | None]


class Watch(Protocol):
    """Follows one connection from its first byte. What it gives out joins to what it was given."""

    def feed(self, direction: Direction, data: bytes) -> list[Piece]:
        """The messages that are complete now; the rest is kept until it is whole.

        Raises:
            Garbled
        """
        ...


class Garbled(Exception):
    """The bytes are not of the protocol that is watched."""


class Unwatched:
    """Any protocol: bytes as they come."""

    def feed(self, direction: Direction, data: bytes) -> list[Piece]:
        return [(data, None)]
