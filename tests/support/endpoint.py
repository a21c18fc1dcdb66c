"""A merchant's HTTP endpoint: it records requests, and a test chooses the answers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count


@dataclass(frozen=True, slots=True)
class Request:
    headers: dict[str, str]
    body: bytes


# Returns the status for a request number, counted from 0; None means no answer.
Behaviour = Callable[[int], int | None]


@dataclass
class Endpoint:
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    taken: list[Request] = field(default_factory=list)
    behaviour: Behaviour = lambda _: 204

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
                pairs = (line.partition(":") for line in head[1:] if line)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                number = len(self.requests)
                self.requests.append(Request(headers, body))
                status = self.behaviour(number)
                if status is not None and 200 <= status < 300:
                    self.taken.append(self.requests[number])
                if status is None:
                    await asyncio.sleep(3600)
                location = f"location: {self.url}/elsewhere\r\n" if status and 300 <= status < 400 else ""
                writer.write(f"HTTP/1.1 {status} x\r\n{location}content-length: 0\r\n\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            writer.close()


@asynccontextmanager
async def endpoint(behaviour: Behaviour = lambda _: 204, port: int = 0) -> AsyncIterator[Endpoint]:
    made = Endpoint(behaviour=behaviour)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(made.serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for task in tasks:
            task.cancel()


def failing_first(times: int, status: int = 500) -> Behaviour:
    """Fail this many requests, then accept all."""
    calls = count()
    return lambda _: status if next(calls) < times else 204
