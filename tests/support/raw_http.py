"""HTTP/1.1 at the level of connections: a sender, and a server that records raw requests."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType

import h11

ANSWER_SECONDS = 20.0
HEALTH = b"/readyz"
LENGTH = re.compile(r"\r\ncontent-length: *(\d+)\r\n")

Fields = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Answer:
    """`head` is in lower case."""

    status: int
    head: str
    body: bytes


class ConnectionEnded(Exception):
    """The connection ended before the answer was complete."""


class Sender:
    """One connection for consecutive requests."""

    def __init__(
        self, port: int, tls: ssl.SSLContext | None = None, *, own_address: str = "127.0.0.1"
    ) -> None:
        self._port = port
        self._tls = tls
        self._own_address = own_address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.connections = 0
        """The number of connections that it opened."""

    async def __aenter__(self) -> "Sender":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._streams is not None:
            # `close` would wait for the peer to end TLS, longer than a test runs.
            self._streams[1].transport.abort()
            self._streams = None

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send over the connection, or over a new one if it has ended.

        Raises:
            ConnectionEnded
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection(
                "127.0.0.1", self._port, ssl=self._tls, local_addr=(self._own_address, 0)
            )
            self.connections += 1
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._exchange(path, body, headers)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            raise ConnectionEnded(str(error)) from error

    async def _exchange(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        assert self._streams is not None
        reader, writer = self._streams
        fields = {"Host": "stockhook.example", "Content-Length": str(len(body)), **headers}
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = LENGTH.search(head)
        assert length is not None, f"the answer has no Content-Length: {head}"
        answer = Answer(int(head[9:12]), head, await reader.readexactly(int(length[1])))
        if "\r\nconnection: close\r\n" in head:
            self.close()
        return answer


@dataclass(frozen=True, slots=True)
class Received:
    """A raw request. `connection` counts from 1."""

    connection: int
    target: bytes
    fields: Fields
    body: bytes

    def values(self, name: str) -> list[str]:
        return [value.decode() for field, value in self.fields if field.lower() == name.lower().encode()]


@dataclass(slots=True)
class Recorder:
    """Answers each request with 200; with `hangs_up` it closes the connection after each request.

    Health checks are answered and not recorded.
    """

    hangs_up: bool = False
    port: int = 0
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    started: int = 0
    """Requests whose head arrived."""
    ended: set[int] = field(default_factory=set)
    """Connections that the peer closed."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        state = h11.Connection(h11.SERVER)
        try:
            while True:
                received = await self._request(state, reader, number)
                if received is None:
                    self.ended.add(number)
                    return
                if received.target != HEALTH:
                    self.requests.append(received)
                    if self.hangs_up:
                        return
                answer = h11.Response(status_code=200, headers=[("Content-Length", "2")])
                events = (answer, h11.Data(b"{}"), h11.EndOfMessage())
                writer.write(b"".join(state.send(event) or b"" for event in events))
                if state.our_state is not h11.DONE:
                    return
                state.start_next_cycle()
        except (OSError, h11.RemoteProtocolError):
            self.ended.add(number)
        finally:
            writer.close()

    async def _request(
        self, state: h11.Connection, reader: asyncio.StreamReader, number: int
    ) -> Received | None:
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = state.next_event()
            if event is h11.NEED_DATA:
                state.receive_data(await reader.read(65_536))
            elif isinstance(event, h11.Request):
                head = event
                self.started += event.target != HEALTH
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                return Received(number, head.target, list(head.headers), bytes(body))
            else:
                return None


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    """Serve on a free port of 127.0.0.1; at the end, no connection remains."""
    tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks[task] = writer
        await serve(reader, writer)

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in tasks.values():
            writer.transport.abort()
        await asyncio.gather(*tasks)


@asynccontextmanager
async def recording(*, hangs_up: bool = False) -> AsyncIterator[Recorder]:
    recorder = Recorder(hangs_up)
    async with listening(recorder.serve) as port:
        recorder.port = port
        yield recorder
