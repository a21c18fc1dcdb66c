"""A cheap HTTP client: prepared bytes over connections that stay open."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import time

from worker.send.webhook import Webhook

CONNECTIONS = 64
ANSWER_SECONDS = 60.0

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class NotAccepted(Exception):
    """An event was not answered 200. The text is the answer's beginning."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request as it goes over the wire."""

    event_id: str
    wire: bytes


@dataclass(slots=True)
class Answers:
    """Of each accepted event, by the wall clock: when its answer had arrived, and how long it took."""

    at: dict[str, float] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)


def prepared(webhook: Webhook, event_id: str = "") -> Prepared:
    lines = [
        f"POST {webhook.path} HTTP/1.1",
        "host: bench",
        *(f"{name}: {value}" for name, value in webhook.headers.items()),
        f"content-length: {len(webhook.body)}",
        "",
        "",
    ]
    return Prepared(event_id, "\r\n".join(lines).encode() + webhook.body)


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def exchange(self, request: Prepared) -> None:
        """Raises: NotAccepted."""
        self.writer.write(request.wire)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        body = await self.reader.readexactly(int(length[1]) if length else 0)
        if not head.startswith(b"HTTP/1.1 200"):
            raise NotAccepted((head + body)[:500].decode(errors="replace"))


async def _connected(port: int) -> list[_Connection]:
    return [_Connection(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(CONNECTIONS)]


async def play_at_once(port: int, requests: Sequence[Prepared]) -> Answers:
    """Send all over 64 connections, on each the next as soon as the one before is answered.

    Raises:
        NotAccepted
    """
    answers = Answers()
    waiting = iter(requests)

    async def work(connection: _Connection, waiting: Iterator[Prepared]) -> None:
        for request in waiting:
            await _timed(connection, request, answers)

    connections = await _connected(port)
    async with asyncio.TaskGroup() as tasks:
        for connection in connections:
            tasks.create_task(work(connection, waiting))
    _close(connections)
    return answers


async def play_at_rate(port: int, requests: Sequence[Prepared], rate: float) -> Answers:
    """Send one every 1/rate seconds, however late the answers are.

    Raises:
        NotAccepted
    """
    answers = Answers()
    connections = await _connected(port)
    idle: asyncio.LifoQueue[_Connection] = asyncio.LifoQueue()
    for connection in connections:
        idle.put_nowait(connection)

    async def send(request: Prepared) -> None:
        connection = await idle.get()
        await _timed(connection, request, answers)
        idle.put_nowait(connection)

    began = time()
    async with asyncio.TaskGroup() as tasks:
        for number, request in enumerate(requests):
            if (pause := began + number / rate - time()) > 0:
                await asyncio.sleep(pause)
            tasks.create_task(send(request))
    _close(connections)
    return answers


async def _timed(connection: _Connection, request: Prepared, answers: Answers) -> None:
    began = time()
    async with asyncio.timeout(ANSWER_SECONDS):
        await connection.exchange(request)
    answered = time()
    answers.at[request.event_id] = answered
    answers.seconds.append(answered - began)


def _close(connections: Sequence[_Connection]) -> None:
    for connection in connections:
        connection.writer.close()
