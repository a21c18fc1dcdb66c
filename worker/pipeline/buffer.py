"""What was delivered to a consumer and not yet taken."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from worker.amqp.tap import Delivery
from worker.pipeline.batch import Arrived, Suspect

# So many are read before the event loop looks whether the database has answered.
READ_AT_ONCE = 16


@dataclass(slots=True)
class PrefetchBuffer:
    """A queue that gives out batches, and each suspect alone.

    Deliveries come many at once, when the batch before is acked. They are read a few at a time, so that
    the database gets its next statement meanwhile and reading fills the time in which it works.
    """

    read: Callable[[Delivery], Arrived]
    _unread: deque[Delivery] = field(default_factory=deque)
    _items: deque[Arrived] = field(default_factory=deque)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: bool = False

    def __len__(self) -> int:
        return len(self._unread) + len(self._items)

    def put(self, delivery: Delivery) -> None:
        if not self._unread:
            asyncio.get_running_loop().call_soon(self._read_some)
        self._unread.append(delivery)

    def _read_some(self) -> None:
        for _ in range(min(READ_AT_ONCE, len(self._unread))):
            self._items.append(self.read(self._unread.popleft()))
        self._changed.set()
        if self._unread:
            asyncio.get_running_loop().call_soon(self._read_some)

    def close(self) -> None:
        """Give out nothing more."""
        self._closed = True
        self._changed.set()

    async def take(self, limit: int) -> list[Arrived]:
        """What has arrived, `limit` at most; waits for the first; empty once closed."""
        while not self._items and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        if self._closed:
            return []
        batch = [self._items.popleft()]
        while len(batch) < limit and self._items and _may_join(batch[0], self._items[0]):
            batch.append(self._items.popleft())
        return batch

    def take_all(self) -> list[Arrived]:
        """Whatever is left, also once closed."""
        items = [*self._items, *map(self.read, self._unread)]
        self._items.clear()
        self._unread.clear()
        return items


def _may_join(first: Arrived, other: Arrived) -> bool:
    return not isinstance(first, Suspect) and not isinstance(other, Suspect)
