"""One connection of the HTTP server: the order of its requests and answers, and its deadlines.

A connection is always in one of these states; each but the second has a deadline of its own.

    reading a head   from the first byte of a request, or of the connection, to the end of the headers
    answering        the handler reads the body and processes it, with deadlines of its own
    idle             answered, and waiting for the next request, or for the sender to read the answers
    lingering        the last answer is sent: further bytes are read and dropped, because closing at once
                     would destroy the answer for a sender that is still sending
"""

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import httptools
import structlog

from worker.amqp.timeouts import TimeoutGroup
from worker.ingest.connection_limits import ConnectionLimits, Kind, OpenConnections, Reason
from worker.ingest.exchange import Refused, Request, Response
from worker.ingest.http_body import RequestBody
from worker.ingest.http_messages import CLOSE, encode, malformed
from worker.ingest.http_parser import Head, Malformed, RequestParser
from worker.ingest.log_limit import REFUSAL_LOG_SECONDS, LogLimit
from worker.ingest.trusted_proxies import TrustedProxies, network_key, read_address
from worker.observability import metrics

log = structlog.get_logger(__name__)

Handler = Callable[[Request], Awaitable[Response]]

# A deadline is noticed at most this late.
CHECK_SECONDS = 0.25
LINGER_SECONDS = 2.0
# Beyond, the socket is not read until the handler has taken some.
BODY_BUFFER_BYTES = 16_384
# Requests that one connection may send before the first is answered.
MOST_PIPELINED = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """`header_bytes` limits the head of a request, and all other bytes outside of a body.

    Strangers, as connection_limits.py calls them, may be idle for `stranger_idle_seconds`, and have
    `header_seconds` from the beginning of the connection to the end of their first head.
    """

    idle_seconds: float
    header_seconds: float = 5.0
    header_bytes: int = 16_384
    stranger_idle_seconds: float = 5.0
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)


@dataclass(slots=True)
class Shared:
    """State that all connections of a server use."""

    handle: Handler
    limits: Limits
    proxies: TrustedProxies
    open: OpenConnections = field(init=False)
    deadlines: TimeoutGroup = field(default_factory=lambda: TimeoutGroup(CHECK_SECONDS))
    answering: "set[asyncio.Task[None]]" = field(default_factory=set)
    is_draining: bool = False
    all_closed: asyncio.Event = field(default_factory=asyncio.Event)
    refusals: LogLimit = field(default_factory=lambda: LogLimit(REFUSAL_LOG_SECONDS))

    def __post_init__(self) -> None:
        self.open = OpenConnections(self.limits.connections, self.note_refused)

    def note_refused(self, reason: Reason, address: str) -> None:
        """A connection was closed, or not admitted."""
        metrics.CONNECTIONS_REFUSED.labels(reason).inc()
        unlogged = self.refusals.unlogged(reason)
        if unlogged is not None:
            log.warning("connection.refused", reason=reason, address=address, unlogged_before=unlogged)


@dataclass(slots=True)
class _Exchange:
    request: Request
    body: RequestBody
    keep_alive: bool
    expects_continue: bool


class Connection(asyncio.Protocol):
    """The callbacks of asyncio, those of the parser, and the order of requests and answers."""

    def __init__(self, shared: Shared, accepted: socket.socket, peer: str) -> None:
        self._shared = shared
        self._limits = shared.limits
        # Until there is a transport, which with TLS is after the handshake.
        self._accepted: socket.socket | None = accepted
        self._peer = read_address(peer)
        self._is_proxy = False
        self._transport: asyncio.Transport | None = None
        self.has_transport = False
        self._parser = RequestParser(self, self._limits.header_bytes)
        self._queue: deque[_Exchange | Response] = deque()
        self._current: _Exchange | None = None
        self._incoming: RequestBody | None = None
        self._has_eof = False
        self._is_paused = False
        self._can_write = True
        # No further request is taken from it.
        self._is_over = False
        self._is_lingering = False

    @property
    def address(self) -> str:
        """The address or network to which limits apply."""
        return network_key(self._peer)

    def admit(self) -> bool:
        """Add it to the open connections; False if there is no room for it."""
        self._is_proxy = self._shared.proxies.include(self._peer)
        return self._shared.open.admit(self, self.address, is_trusted=self._is_proxy)

    def authenticate(self) -> None:
        self._shared.open.authenticate(self)

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no asyncio class.
        self._transport = cast(asyncio.Transport, transport)
        self._accepted = None
        self.has_transport = True
        if self not in self._shared.open:
            # It was closed meanwhile, to make room for another.
            self.abort()
            return
        if transport.get_extra_info("sslcontext") is not None:
            # The limit of bytes that arrive while reading is paused.
            transport.set_read_buffer_limits(high=BODY_BUFFER_BYTES)  # type: ignore[attr-defined]  # of TLS
        if transport.get_extra_info("peercert"):
            self._shared.open.authenticate(self)
        self._shared.open.note_idle(self)
        self._watch(self._limits.header_seconds if self._is_stranger else self._limits.idle_seconds)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = self._accepted = None
        self._is_over = True
        self._queue.clear()
        self._fail_body()
        self._shared.deadlines.forget(self)
        self._shared.open.remove(self)
        if not len(self._shared.open):
            self._shared.all_closed.set()
        self._parser.close()

    def eof_received(self) -> bool:
        """The sender has ended its half of the connection, and may still read."""
        self._has_eof = True
        if not self._is_over:
            if self._parser.is_reading_head:
                self._refuse(malformed("The request ended within its headers."))
            self._fail_body()
            self._end_requests()
        is_answering = self._current is not None or bool(self._queue)
        return is_answering and self._transport is not None and self._transport.can_write_eof()

    def pause_writing(self) -> None:
        self._can_write = False
        self._watch(self._idle_seconds)

    def resume_writing(self) -> None:
        self._can_write = True
        self._next()

    # The parser

    def on_head(self, head: Head) -> Response | None:
        if len(self._queue) >= MOST_PIPELINED:
            return malformed(f"More than {MOST_PIPELINED} requests came before the first was answered.")
        self._incoming = body = RequestBody(self)
        client = self._shared.proxies.client(self._peer, head.headers)
        headers = self._shared.proxies.without_untrusted(self._peer, head.headers)
        request = Request(
            head.method, head.path, headers, body, client, self.authenticate, self._is_proxy, body.is_whole
        )
        if self._can_write:
            self._shared.deadlines.forget(self)
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
        heads_started = self._parser.heads_started
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
            case None if self._parser.is_reading_head and self._parser.heads_started != heads_started:
                # The deadline of a stranger's first head runs from the beginning of the connection.
                if self._parser.heads_started > 1 or not self._is_stranger:
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
            self._linger(is_sender_done=False)
            return
        self._current = todo
        self._shared.open.note_busy(self)
        if not self._parser.is_reading_head:
            self._shared.deadlines.forget(self)
        task = asyncio.get_running_loop().create_task(self._answer(todo))
        self._shared.answering.add(task)
        task.add_done_callback(self._shared.answering.discard)

    async def _answer(self, exchange: _Exchange) -> None:
        response = await self._shared.handle(exchange.request)
        self._current = None
        if self._transport is None:
            return
        is_whole = exchange.body.is_whole()
        closes = (
            not (exchange.keep_alive and is_whole)
            or CLOSE in response.headers
            or (self._is_over and not self._queue)
            or self._shared.is_draining
        )
        self._write(response, exchange.request.method, closes=closes)
        if closes:
            self._queue.clear()
            self._linger(is_sender_done=is_whole)
            return
        self.regulate_reading()
        self._next()
        if self._current is None and not self._is_over:
            self._shared.open.note_idle(self)
            if not self._parser.is_reading_head:
                self._watch(self._idle_seconds)

    def _write(self, response: Response, method: str, *, closes: bool) -> None:
        assert self._transport is not None, "a closed connection is not answered"
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
        if self._accepted is not None:
            self.abort()
        elif is_idle and not self._is_lingering and self._transport is not None:
            self._transport.close()

    def is_unfinished(self) -> bool:
        """Whether no request that arrived whole is still to be answered."""
        return self._current is None or not self._current.body.is_whole()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        elif self._accepted is not None:
            # The event loop owns the socket by now, and notices its end.
            with suppress(OSError):
                self._accepted.shutdown(socket.SHUT_RDWR)

    def _linger(self, *, is_sender_done: bool) -> None:
        """The last answer was written: end our half, and close when the sender ends its half.

        A TLS connection has no halves: wait for the sender to read the answer and to close.
        """
        assert self._transport is not None, "a closed connection is not answered"
        self._is_over = self._is_lingering = True
        self._fail_body()
        self.regulate_reading()
        self._shared.open.note_idle(self)
        self._watch(LINGER_SECONDS)
        if self._transport.can_write_eof() and not self._has_eof:
            self._transport.write_eof()
        elif self._has_eof or is_sender_done:
            self._transport.close()

    @property
    def _is_stranger(self) -> bool:
        return self._shared.open.kind(self) is Kind.STRANGER

    @property
    def _idle_seconds(self) -> float:
        limits = self._limits
        return (
            min(limits.idle_seconds, limits.stranger_idle_seconds)
            if self._is_stranger
            else limits.idle_seconds
        )

    def _watch(self, seconds: float) -> None:
        self._shared.deadlines.watch(self, seconds, self._expire)

    def _expire(self) -> None:
        if self._parser.is_reading_head and self._can_write and not self._is_lingering:
            detail = f"The headers must arrive within {self._limits.header_seconds:g} seconds."
            self._refuse(Refused(408, "Headers too slow", detail, (CLOSE,)).response)
        else:
            self.abort()
