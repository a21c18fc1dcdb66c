"""An HTTP server on loopback for simulated marketplaces, which can send faulty responses.

(The ingest's server sends only complete and valid ones.)
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol, assert_never
from urllib.parse import parse_qsl, unquote, urlsplit

import h11

from worker.observability.listening import listening_on
from worker.simulator.faults import (
    NO_CONTENT,
    Cut,
    Flood,
    Sending,
    Trickle,
    Whole,
)
from worker.simulator.marketplace import Request, Response

HOST = "127.0.0.1"

_READ_BYTES = 65_536
_BODY_LIMIT = 1_048_576


class _HungUp(Exception):
    """The client or a fault has ended the connection."""


class Answering(Protocol):
    async def answer(self, request: Request) -> Sending: ...


@asynccontextmanager
async def serving(simulation: Answering, port: int = 0) -> AsyncIterator[int]:
    """Listen while the context is open, on the yielded port; the system chooses it for 0.

    Raises:
        CannotListen
    """
    open_connections: set[asyncio.Task[None]] = set()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a server's callback is a task"
        open_connections.add(task)
        task.add_done_callback(open_connections.discard)
        with suppress(_HungUp, OSError, h11.ProtocolError, asyncio.CancelledError):
            await _Connection(reader, writer).serve(simulation)
        writer.close()

    with listening_on(HOST, port, host_setting="--port", port_setting="--port"):
        server = await asyncio.start_server(on_connection, HOST, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in open_connections:
            task.cancel()
        if open_connections:
            await asyncio.wait(open_connections)


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    protocol: h11.Connection = field(default_factory=lambda: h11.Connection(h11.SERVER))

    async def serve(self, simulation: Answering) -> None:
        """Raises: _HungUp, OSError, and h11.ProtocolError, also for HEAD: its answer has a body here."""
        while True:
            request = await self._request()
            await self._send(await simulation.answer(request))
            if self.protocol.our_state is not h11.DONE or self.protocol.their_state is not h11.DONE:
                return
            self.protocol.start_next_cycle()

    async def _request(self) -> Request:
        head = await self._event()
        if not isinstance(head, h11.Request):
            raise _HungUp
        body = bytearray()
        while isinstance(part := await self._event(), h11.Data):
            body += part.data
            if len(body) > _BODY_LIMIT:
                raise _HungUp
        target = urlsplit(head.target.decode("latin-1"))
        return Request(
            method=head.method.decode("ascii"),
            path=unquote(target.path),
            query=dict(parse_qsl(target.query)),
            headers={name.decode(): value.decode("latin-1") for name, value in head.headers},
            body=bytes(body),
        )

    async def _event(self) -> object:
        while (event := self.protocol.next_event()) is h11.NEED_DATA:
            if self.protocol.they_are_waiting_for_100_continue:
                await self._write(h11.InformationalResponse(status_code=100, headers=[]))
            self.protocol.receive_data(await self.reader.read(_READ_BYTES))
        return event

    async def _send(self, what: Sending) -> None:
        match what:
            case Whole(response=response, after_seconds=seconds):
                await asyncio.sleep(seconds)
                await self._write(_head(response, len(response.body)), h11.Data(data=response.body))
                await self._write(h11.EndOfMessage())
            case Cut(response=response):
                if response is not None:
                    await self._write(_head(response, len(response.body) + 1))
                    await self._write(h11.Data(data=response.body[: len(response.body) // 2]))
                raise _HungUp
            case Trickle(response=response, seconds_apart=seconds):
                await self._write(_head(response, len(response.body)))
                for place in range(len(response.body)):
                    await self._write(h11.Data(data=response.body[place : place + 1]))
                    await asyncio.sleep(seconds)
                await self._write(h11.EndOfMessage())
            case Flood(response=response, size=size, is_declared=is_declared):
                await self._write(_head(response, size if is_declared else None))
                for _ in range(size // _READ_BYTES):
                    await self._write(h11.Data(data=b" " * _READ_BYTES))
                await self._write(h11.Data(data=b" " * (size % _READ_BYTES)), h11.EndOfMessage())
            case unreachable:
                assert_never(unreachable)

    async def _write(self, *events: h11.Event) -> None:
        for event in events:
            self.writer.write(self.protocol.send(event) or b"")
        await self.writer.drain()


def _head(response: Response, length: int | None) -> h11.Response:
    headers = list(response.headers.items())
    if response.status != NO_CONTENT:
        headers.append(
            ("transfer-encoding", "chunked") if length is None else ("content-length", str(length))
        )
    return h11.Response(status_code=response.status, headers=headers)
