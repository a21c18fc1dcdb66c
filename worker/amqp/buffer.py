"""Deliveries that have arrived and are not being processed yet."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from worker.amqp.tap import Delivery

T = TypeVar("T")

# The number of deliveries that are read before other tasks of the event loop run.
READ_AT_ONCE = 16


@dataclass(slots=True)
class PrefetchBuffer(Generic[T]):
    """A queue of deliveries, as `read` returns them, that is emptied in batches.

    Many deliveries arrive at once, after each ack. They are read a few at a time, so that the database gets
    its next statement first, and the rest is read while it works. `is_batch_of_one` selects items that share
    a batch with no other.
    """

    read: Callable[[Delivery], T]
    is_batch_of_one: Callable[[T], bool]
    _unread: deque[Delivery] = field(default_factory=deque)
    _items: deque[T] = field(default_factory=deque)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    is_closed: bool = False

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
        """Make `take` return nothing from now on."""
        self.is_closed = True
        self._changed.set()

    async def take(self, limit: int) -> list[T]:
        """Wait for an item and return up to `limit` items; an empty list once the buffer is closed."""
        while not self._items and not self.is_closed:
            self._changed.clear()
            await self._changed.wait()
        if self.is_closed:
            return []
        batch = [self._items.popleft()]
        if self.is_batch_of_one(batch[0]):
            return batch
        while len(batch) < limit and self._items and not self.is_batch_of_one(self._items[0]):
            batch.append(self._items.popleft())
        return batch
