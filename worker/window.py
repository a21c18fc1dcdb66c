"""What was delivered to a consumer and not yet taken."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from worker.batch import Arrived, Suspect


@dataclass(slots=True)
class Window:
    """A queue that gives out batches, and each suspect alone."""

    _items: deque[Arrived] = field(default_factory=deque)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: bool = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Arrived) -> None:
        self._items.append(item)
        self._changed.set()

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
        items = list(self._items)
        self._items.clear()
        return items


def _may_join(first: Arrived, other: Arrived) -> bool:
    return not isinstance(first, Suspect) and not isinstance(other, Suspect)
