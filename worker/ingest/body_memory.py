"""How many bytes of bodies are in memory at a time, whoever sends them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from worker.observability import metrics

# Room for so many bodies of the largest size, and for no fewer bytes than this.
LEAST_BYTES = 32 * 1024 * 1024
LARGEST_BODIES = 16


class NoRoom(Exception):
    """The limit is reached: the sender is to come again."""


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
    """Beyond the limit, the largest goes: of those that are neither whole nor authenticated, and the one that
    has just grown. Who fills the memory with bodies that never end so keeps out nobody who sends less.
    """

    limit: int
    _held: set[Held] = field(default_factory=set)
    _size: int = 0

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
            self._count(-held.size)

    def resize(self, held: Held, size: int) -> None:
        """Raises: NoRoom."""
        self._count(size - held.size)
        held.size = size
        while self._size > self.limit:
            others = (other for other in self._held if other.break_off and not other.was_broken_off)
            largest = max((held, *others), key=lambda other: other.size)
            if largest is held or largest.break_off is None:
                raise NoRoom
            largest.was_broken_off = True
            largest.break_off()
            # Its bytes go once its handler runs, which is soon.
            self._count(-largest.size)
            largest.size = 0

    def _count(self, change: int) -> None:
        self._size += change
        metrics.BODY_BYTES.set(self._size)
