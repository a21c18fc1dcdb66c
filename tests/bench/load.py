"""An HTTP client with little overhead: prepared bytes over persistent connections, no task per request."""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import time
from typing import cast

from worker.simulator.webhook import Webhook

CONNECTIONS = 64
LONGEST_SECONDS = 900.0

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class NotAccepted(Exception):
    """An event was not answered 200. The text is the beginning of the answer."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The bytes of a request. `key` identifies its answer."""

    key: str
    wire: bytes


@dataclass(slots=True)
class Answers:
    """The instants at which each accepted request was sent and answered, by key."""

    sent: dict[str, float] = field(default_factory=dict)
    arrived: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> list[float]:
        """The duration of each request."""
        return [arrived - self.sent[key] for key, arrived in self.arrived.items()]


def prepared(webhook: Webhook, key: str) -> Prepared:
    lines = [
        f"POST {webhook.path} HTTP/1.1",
        "host: bench",
        *(f"{name}: {value}" for name, value in webhook.headers.items()),
        f"content-length: {len(webhook.body)}",
    ]
    return Prepared(key, "\r\n".join(lines).encode() + _HEAD_END + webhook.body)


async def play_at_once(port: int, requests: Sequence[Prepared]) -> Answers:
    """Send all over 64 connections, one request at a time on each.

    Raises:
        NotAccepted
    """
    player = _Player(iter(requests), len(requests))
    async with asyncio.timeout(LONGEST_SECONDS), player.connected(port) as connections:
        for connection in connections:
            player.go_on(connection)
        return await player.finish()


async def play_at_rate(port: int, requests: Sequence[Prepared], rate: float) -> Answers:
    """Send one every 1/rate seconds, even if answers are late.

    Raises:
        NotAccepted
    """
    due: deque[Prepared] = deque()
    player = _Player(_Due(due), len(requests))
    async with asyncio.timeout(LONGEST_SECONDS), player.connected(port) as connections:
        player.idle.extend(connections)
        began = time()
        for number, request in enumerate(requests):
            if (pause := began + number / rate - time()) > 0:
                await asyncio.sleep(pause)
            if player.is_over:
                break
            due.append(request)
            # Use the connection that has been idle for longest, because servers close idle connections.
            if player.idle:
                player.go_on(player.idle.popleft())
        return await player.finish()


@dataclass(slots=True)
class _Due:
    """Requests that are due; unlike a generator, it continues after it was empty."""

    waiting: deque[Prepared]

    def __iter__(self) -> Iterator[Prepared]:
        return self

    def __next__(self) -> Prepared:
        if not self.waiting:
            raise StopIteration
        return self.waiting.popleft()


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, on_answer: "Callable[[_Connection], None]", on_error: Callable[[str], None]) -> None:
        self._on_answer = on_answer
        self._on_error = on_error
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self.request: Prepared | None = None
        self.began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The transports of uvloop do not inherit from asyncio's classes.
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: Prepared) -> None:
        assert self._transport is not None
        self.request, self.began = request, time()
        self._transport.write(request.wire)

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data
        head_end = received.find(_HEAD_END)
        if head_end < 0:
            return
        length = _LENGTH.search(received, 0, head_end)
        if len(received) < head_end + len(_HEAD_END) + (int(length[1]) if length else 0):
            return
        self._received = b""
        if received.startswith(b"HTTP/1.1 200"):
            self._on_answer(self)
        else:
            self._on_error(received[:500].decode(errors="replace"))

    def connection_lost(self, error: Exception | None) -> None:
        self._on_error(f"connection lost: {error}")

    def close(self) -> None:
        assert self._transport is not None
        self._transport.abort()


class _Player:
    """Assigns requests to connections until all are answered."""

    def __init__(self, requests: Iterator[Prepared], count: int) -> None:
        self.idle: deque[_Connection] = deque()
        self._requests = requests
        self._left = count
        self._answers = Answers()
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_over(self) -> bool:
        """Whether all are answered, or one was refused."""
        return self._done.done()

    @asynccontextmanager
    async def connected(self, port: int) -> AsyncIterator[list[_Connection]]:
        loop = asyncio.get_running_loop()
        made = [
            await loop.create_connection(lambda: _Connection(self._answered, self._failed), "127.0.0.1", port)
            for _ in range(CONNECTIONS)
        ]
        connections = [connection for _, connection in made]
        try:
            yield connections
        finally:
            # Later answers are ignored.
            self._done.cancel()
            for connection in connections:
                connection.close()

    def go_on(self, connection: _Connection) -> None:
        """Send the next request on this connection, if there is one."""
        request = next(self._requests, None)
        if request is None:
            self.idle.append(connection)
        else:
            connection.send(request)

    async def finish(self) -> Answers:
        """Raises: NotAccepted."""
        await self._done
        return self._answers

    def _answered(self, connection: _Connection) -> None:
        now = time()
        assert connection.request is not None
        key = connection.request.key
        self._answers.sent[key] = connection.began
        self._answers.arrived[key] = now
        self._left -= 1
        if self._left == 0 and not self._done.done():
            self._done.set_result(None)
        self.go_on(connection)

    def _failed(self, why: str) -> None:
        if not self._done.done():
            self._done.set_exception(NotAccepted(why))
