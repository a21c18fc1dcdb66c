"""One connection of the HTTP server: the order of its requests and answers, and its deadlines.

A connection is always in one of these states; each but the second has a deadline of its own.

    reading a head   from the first byte of a request, or the connection itself, to the end of its headers
    answering        the handler reads the body and works; its deadlines are its own
    idle             answered, and waiting for the next request, or for the answers to be read
    lingering        answered for the last time: what still arrives is read and dropped, since closing at
                     once would take the answer away from a sender that is still sending
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast

import httptools
import structlog

from worker.amqp.timeouts import TimeoutGroup
from worker.ingest.http_body import RequestBody
from worker.ingest.http_messages import CLOSE, encode, malformed
from worker.ingest.http_parser import Head, Malformed, RequestParser
from worker.ingest.service import Refused, Request, Response
from worker.observability import metrics

log = structlog.get_logger(__name__)

Handler = Callable[[Request], Awaitable[Response]]

# A deadline is noticed so late at most.
LOOK_SECONDS = 0.25
LINGER_SECONDS = 2.0
# Beyond, the socket is not read until the handler has taken some.
BODY_BUFFER_BYTES = 65_536
# Requests that one connection may send before the first is answered.
MOST_PIPELINED = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """`header_bytes` limits the head of a request, and all other bytes outside of a body."""

    idle_seconds: float
    header_seconds: float = 5.0
    header_bytes: int = 16_384
    connections: int = 512


@dataclass(slots=True)
class Connections:
    """The open connections, and what they share."""

    handle: Handler
    limits: Limits
    deadlines: TimeoutGroup = field(default_factory=lambda: TimeoutGroup(LOOK_SECONDS))
    answering: "set[asyncio.Task[None]]" = field(default_factory=set)
    is_draining: bool = False
    _open: "set[Connection]" = field(default_factory=set)
    # In the order in which they began to wait. Strangers have had no request accepted yet.
    _waiting_strangers: "dict[Connection, None]" = field(default_factory=dict)
    _waiting: "dict[Connection, None]" = field(default_factory=dict)
    _gone: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, connection: "Connection") -> None:
        """Beyond the limit, close the connection that has waited longest, or this one if none waits."""
        if len(self._open) >= self.limits.connections:
            waiting = self._waiting_strangers or self._waiting
            next(iter(waiting), connection).abort()
            metrics.CONNECTIONS_SHED.inc()
        self._open.add(connection)
        metrics.CONNECTIONS.set(len(self._open))

    def remove(self, connection: "Connection") -> None:
        self._open.discard(connection)
        self.is_busy(connection)
        self.deadlines.forget(connection)
        metrics.CONNECTIONS.set(len(self._open))
        if not self._open:
            self._gone.set()

    def is_waiting(self, connection: "Connection", *, stranger: bool) -> None:
        (self._waiting_strangers if stranger else self._waiting)[connection] = None

    def is_busy(self, connection: "Connection") -> None:
        self._waiting_strangers.pop(connection, None)
        self._waiting.pop(connection, None)

    async def drain(self, seconds: float) -> None:
        """Close those that are idle, let the others finish, and abort what takes longer."""
        self.is_draining = True
        self._gone.clear()
        for connection in list(self._open):
            connection.drain()
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        if self._open:
            try:
                await asyncio.wait_for(self._gone.wait(), seconds)
            except TimeoutError:
                log.warning("connections.aborted", connections=len(self._open))
                for connection in list(self._open):
                    connection.abort()
        # Of senders that hung up: their events may be on the way to the broker.
        if self.answering:
            await asyncio.wait(self.answering, timeout=max(end - loop.time(), 0))


@dataclass(slots=True)
class _Exchange:
    request: Request
    body: RequestBody
    keep_alive: bool
    expects_continue: bool


class Connection(asyncio.Protocol):
    """The callbacks of asyncio, those of the parser, and the order of requests and answers."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._limits = connections.limits
        self._transport: asyncio.Transport | None = None
        self._parser = RequestParser(self, self._limits.header_bytes)
        self._queue: deque[_Exchange | Response] = deque()
        self._current: _Exchange | None = None
        self._incoming: RequestBody | None = None
        self._has_eof = False
        self._is_known = False
        self._is_paused = False
        self._can_write = True
        # No further request is taken from it.
        self._is_over = False
        self._is_lingering = False

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no asyncio class.
        self._transport = cast(asyncio.Transport, transport)
        self._connections.is_waiting(self, stranger=True)
        self._watch(self._limits.header_seconds)
        self._connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._is_over = True
        self._queue.clear()
        self._fail_body()
        self._connections.remove(self)
        self._parser.close()

    def eof_received(self) -> bool:
        """The sender sends no more, and may still read."""
        self._has_eof = True
        if not self._is_over:
            if self._parser.is_reading_head:
                self._refuse(malformed("The request ended within its headers."))
            self._fail_body()
            self._end_requests()
        return bool(self._current or self._queue)

    def pause_writing(self) -> None:
        self._can_write = False
        self._watch(self._limits.idle_seconds)

    def resume_writing(self) -> None:
        self._can_write = True
        self._next()

    # The parser

    def on_head(self, head: Head) -> Response | None:
        if len(self._queue) >= MOST_PIPELINED:
            return malformed(f"More than {MOST_PIPELINED} requests came before the first was answered.")
        self._incoming = body = RequestBody(self)
        request = Request(head.method, head.path, head.headers, body)
        if self._can_write:
            self._connections.deadlines.forget(self)
        self._queue.append(_Exchange(request, body, head.keep_alive, head.expects_continue))
        self._next()
        return None

    def on_body(self, chunk: bytes) -> None:
        if self._incoming is not None:
            self._incoming.feed(chunk)

    def on_complete(self) -> None:
        if self._incoming is not None:
            self._incoming.complete()
            self._incoming = None
            last = self._queue[-1] if self._queue else self._current
            if isinstance(last, _Exchange) and not last.keep_alive:
                self._end_requests()

    # Requests

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        heads_begun = self._parser.heads_begun
        try:
            fault = self._parser.feed(data)
        except httptools.HttpParserCallbackError:
            log.exception("connection.failed")
            self.abort()
            return
        if self._is_over:
            return
        match fault:
            case Malformed():
                self._break_off(fault)
            case Response():
                self._refuse(fault)
            case None if self._parser.is_reading_head and self._parser.heads_begun != heads_begun:
                self._watch(self._limits.header_seconds)
        self.regulate_reading()

    def _break_off(self, malformed_bytes: Malformed) -> None:
        """The handler, which waits for the body, answers a malformed one."""
        if self._incoming is None:
            self._refuse(malformed(f"The request is not valid HTTP/1.1: {malformed_bytes.fault}."))
            return
        log.debug("body.malformed", fault=malformed_bytes.fault)
        self._fail_body()
        self._end_requests()

    def _fail_body(self) -> None:
        if self._incoming is not None:
            self._incoming.fail()
            self._incoming = None

    def _refuse(self, response: Response) -> None:
        """Answer without the handler, in the order of requests, and accept nothing further."""
        metrics.HTTP_REFUSED.labels(str(response.status)).inc()
        self._fail_body()
        self._end_requests()
        self._queue.append(response)
        self._next()

    def _end_requests(self) -> None:
        """Take no further request from it."""
        self._is_over = True
        self._parser.stop()

    # Answers

    def _next(self) -> None:
        if self._current is not None or not self._queue or not self._can_write:
            return
        todo = self._queue.popleft()
        if isinstance(todo, Response):
            self._write(todo, "GET", closes=True)
            self._linger()
            return
        self._current = todo
        self._connections.is_busy(self)
        if not self._parser.is_reading_head:
            self._connections.deadlines.forget(self)
        task = asyncio.get_running_loop().create_task(self._answer(todo))
        self._connections.answering.add(task)
        task.add_done_callback(self._connections.answering.discard)

    async def _answer(self, exchange: _Exchange) -> None:
        response = await self._connections.handle(exchange.request)
        self._current = None
        if self._transport is None:
            return
        self._is_known |= response.status < HTTPStatus.BAD_REQUEST
        is_whole = exchange.body.is_complete
        closes = (
            not (exchange.keep_alive and is_whole)
            or CLOSE in response.headers
            or (self._is_over and not self._queue)
            or self._connections.is_draining
        )
        self._write(response, exchange.request.method, closes=closes)
        if closes:
            self._queue.clear()
            self._linger()
            return
        self.regulate_reading()
        self._next()
        if self._current is None and not self._is_over:
            self._connections.is_waiting(self, stranger=not self._is_known)
            if not self._parser.is_reading_head:
                self._watch(self._limits.idle_seconds)

    def _write(self, response: Response, method: str, *, closes: bool) -> None:
        assert self._transport is not None, "who is gone is not answered"
        self._transport.write(encode(response, method, closes=closes))

    def invite_body(self) -> None:
        """Answer `Expect: 100-continue` once (RFC 9110, 10.1.1)."""
        exchange = self._current
        if exchange is not None and exchange.expects_continue and self._transport is not None:
            exchange.expects_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def regulate_reading(self) -> None:
        """Stop reading the socket while a sender is faster than the handler."""
        if self._transport is None:
            return
        is_full = self._incoming is not None and self._incoming.size > BODY_BUFFER_BYTES
        pauses = not self._is_over and (is_full or bool(self._queue))
        if pauses != self._is_paused:
            self._is_paused = pauses
            if pauses:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # Ends

    def drain(self) -> None:
        """Accept nothing further, and send the answers that are due."""
        is_idle = self._current is None and not self._queue and not self._parser.is_reading_head
        if is_idle and not self._is_lingering and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _linger(self) -> None:
        """The last answer was written: end our half, and the other when the sender ends its own."""
        assert self._transport is not None, "who is gone is not answered"
        self._is_over = self._is_lingering = True
        self._fail_body()
        self.regulate_reading()
        self._connections.is_waiting(self, stranger=True)
        self._watch(LINGER_SECONDS)
        if self._has_eof or not self._transport.can_write_eof():
            self._transport.close()
        else:
            self._transport.write_eof()

    def _watch(self, seconds: float) -> None:
        self._connections.deadlines.watch(self, seconds, self._expire)

    def _expire(self) -> None:
        if self._parser.is_reading_head and self._can_write and not self._is_lingering:
            detail = f"The headers must arrive within {self._limits.header_seconds:g} seconds."
            self._refuse(Refused(408, "Headers too slow", detail, (CLOSE,)).response)
        else:
            self.abort()
