"""A limit for the bytes of all bodies in memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from worker.observability import metrics

# The limit is this many bodies of the largest size, but at least so many bytes.
LEAST_BYTES = 32 * 1024 * 1024
LARGEST_BODIES = 16


class NoRoom(Exception):
    """The limit is reached: the sender has to send the body again later."""


@dataclass(slots=True, eq=False)
class Held:
    """The body of one request, from its first byte to its answer.

    `break_off` ends a body that has not arrived whole, if it has to make room.
    """

    break_off: Callable[[], None] | None = None
    size: int = 0
    was_broken_off: bool = False


@dataclass(slots=True)
class BodyMemory:
    """Beyond the limit, the largest body is dropped, among the body that has just grown and those that are
    neither whole nor authenticated. A sender that fills the memory with endless bodies cannot displace
    smaller ones.
    """

    limit: int
    _held: set[Held] = field(default_factory=set)
    _size: int = 0

    def __post_init__(self) -> None:
        metrics.BODY_BYTES.set_function(lambda: self._size)

    @classmethod
    def for_bodies_of(cls, body_limit: int) -> "BodyMemory":
        return cls(max(LEAST_BYTES, LARGEST_BODIES * body_limit))

    @contextmanager
    def holding(self) -> Iterator[Held]:
        """While the context lasts, what the body takes is counted."""
        held = Held()
        self._held.add(held)
        try:
            yield held
        finally:
            self._held.discard(held)
            self._size -= held.size

    def resize(self, held: Held, size: int) -> None:
        """Raises: NoRoom."""
        self._size += size - held.size
        held.size = size
        while self._size > self.limit:
            others = (other for other in self._held if other.break_off and not other.was_broken_off)
            largest = max((held, *others), key=lambda other: other.size)
            if largest is held or largest.break_off is None:
                raise NoRoom
            largest.was_broken_off = True
            largest.break_off()
            # Its bytes go once its handler runs, which is soon.
            self._size -= largest.size
            largest.size = 0
