"""The body of a request while it arrives: the connection feeds it, the handler reads it."""

import asyncio
from typing import Protocol

from worker.ingest.exchange import BodyIncomplete

# The handler gets at least this many bytes at a time, except for the last ones of a body.
WAKING_BYTES = 1024


class Source(Protocol):
    """The connection on which a body arrives."""

    def invite_body(self) -> None:
        """The handler waits for it."""

    def regulate_reading(self) -> None:
        """The handler has read a part of it."""


class RequestBody:
    """An iterator over what arrives; it raises BodyIncomplete."""

    __slots__ = ("_chunks", "_is_broken", "_is_complete", "_source", "_waiter", "size")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._chunks: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._is_broken = False
        self._is_complete = False
        self.size = 0
        """Bytes that were fed and not yet read."""

    def feed(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        self.size += len(chunk)
        # The handler is not woken for each byte of a slow sender.
        if self.size >= WAKING_BYTES:
            self._wake()

    def complete(self) -> None:
        self._is_complete = True
        self._wake()

    def fail(self) -> None:
        """Note that the body ended early, or is malformed."""
        self._is_broken = True
        self._wake()

    def is_whole(self) -> bool:
        """Whether no more of it is to arrive."""
        return self._is_complete

    def __aiter__(self) -> "RequestBody":
        return self

    async def __anext__(self) -> bytes:
        """Raises: BodyIncomplete."""
        while self.size < WAKING_BYTES and not (self._is_complete and self._chunks):
            if self._is_broken:
                raise BodyIncomplete
            if self._is_complete:
                raise StopAsyncIteration
            self._source.invite_body()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        arrived = b"".join(self._chunks)
        self._chunks.clear()
        self.size = 0
        self._source.regulate_reading()
        return arrived

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
