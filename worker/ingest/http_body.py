"""The body of a request while it arrives: the connection feeds it, the handler reads it."""

import asyncio
from collections import deque
from typing import Protocol

from worker.ingest.service import BodyIncomplete


class Source(Protocol):
    """What a body arrives on."""

    def invite_body(self) -> None:
        """The handler waits for it."""

    def regulate_reading(self) -> None:
        """The handler has taken some of it."""


class RequestBody:
    """An iterator over what arrives; it raises BodyIncomplete."""

    __slots__ = ("_chunks", "_is_broken", "_source", "_waiter", "is_complete", "size")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._chunks: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._is_broken = False
        self.is_complete = False
        self.size = 0
        """Bytes that were fed and not yet read."""

    def feed(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self.size += len(chunk)
        self._wake()

    def complete(self) -> None:
        self.is_complete = True
        self._wake()

    def fail(self) -> None:
        """Note that the body ended early, or is malformed."""
        self._is_broken = True
        self._wake()

    def __aiter__(self) -> "RequestBody":
        return self

    async def __anext__(self) -> bytes:
        """Raises: BodyIncomplete."""
        while not self._chunks:
            if self._is_broken:
                raise BodyIncomplete
            if self.is_complete:
                raise StopAsyncIteration
            self._source.invite_body()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        chunk = self._chunks.popleft()
        self.size -= len(chunk)
        self._source.regulate_reading()
        return chunk

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
