"""An HTTP/1 server for one handler: llhttp (httptools) parses, asyncio carries the bytes.

docs/design/http-server.md says why there is one, and which servers were measured beside it. What it adds to
parser and event loop: a body that did not arrive whole is an error for the handler, a deadline for each
state of a connection, and bounds for headers and connections.

A connection is always in one of these states; each but the second has a deadline of its own.

    reading a head   from the first byte of a request, or the connection itself, to the end of its headers
    answering        the handler reads the body and works; its deadlines are its own
    idle             answered, and waiting for the next request, or for the answers to be read
    lingering        answered for the last time: what still arrives is read and dropped, since closing at
                     once would take the answer away from a sender that is still sending
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import time
from typing import cast
from urllib.parse import unquote, urlsplit

import httptools
import structlog

from worker.amqp.timeouts import TimeoutGroup
from worker.config.settings import PREFIX
from worker.ingest.service import (
    BodyIncomplete,
    Refused,
    Request,
    Response,
)
from worker.observability import metrics
from worker.observability.listening import listening_on

log = structlog.get_logger(__name__)

Handler = Callable[[Request], Awaitable[Response]]

# A deadline is noticed at most this late.
CHECK_SECONDS = 0.25
LINGER_SECONDS = 2.0
# Beyond, the socket is not read until the handler has taken some.
BODY_BUFFER_BYTES = 65_536
# Requests that one connection may send before the first is answered.
MOST_PIPELINED = 16
BACKLOG = 1024

_CLOSE = ("connection", "close")


@dataclass(frozen=True, slots=True)
class Limits:
    """`header_bytes` limits the head of a request, and all other bytes outside of a body."""

    idle_seconds: float
    header_seconds: float = 5.0
    header_bytes: int = 16_384
    connections: int = 512


@asynccontextmanager
async def serving(
    handle: Handler, host: str, port: int, limits: Limits, drain_seconds: float
) -> AsyncIterator[int]:
    """Listen while the context lasts; the port, which the system chooses for 0.

    At its end, requests in flight have `drain_seconds` to be answered.

    Raises:
        CannotListen
    """
    connections = _Connections(handle, limits)
    loop = asyncio.get_running_loop()
    with listening_on(host, port, host_setting=f"{PREFIX}INGEST_HOST", port_setting=f"{PREFIX}INGEST_PORT"):
        server = await loop.create_server(lambda: _Connection(connections), host, port, backlog=BACKLOG)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await connections.drain(drain_seconds)


@dataclass(slots=True)
class _Connections:
    """The open connections, and what they share."""

    handle: Handler
    limits: Limits
    deadlines: TimeoutGroup = field(default_factory=lambda: TimeoutGroup(CHECK_SECONDS))
    answering: "set[asyncio.Task[None]]" = field(default_factory=set)
    is_draining: bool = False
    _open: "set[_Connection]" = field(default_factory=set)
    # In the order in which they began to wait. Strangers have had no request accepted yet.
    _waiting_strangers: "dict[_Connection, None]" = field(default_factory=dict)
    _waiting: "dict[_Connection, None]" = field(default_factory=dict)
    _all_closed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, connection: "_Connection") -> None:
        """Beyond the limit, close the connection that has waited longest, or this one if none waits."""
        if len(self._open) >= self.limits.connections:
            waiting = self._waiting_strangers or self._waiting
            next(iter(waiting), connection).abort()
            metrics.CONNECTIONS_SHED.inc()
        self._open.add(connection)
        metrics.CONNECTIONS.set(len(self._open))

    def remove(self, connection: "_Connection") -> None:
        self._open.discard(connection)
        self.is_busy(connection)
        self.deadlines.forget(connection)
        metrics.CONNECTIONS.set(len(self._open))
        if not self._open:
            self._all_closed.set()

    def is_waiting(self, connection: "_Connection", *, stranger: bool) -> None:
        (self._waiting_strangers if stranger else self._waiting)[connection] = None

    def is_busy(self, connection: "_Connection") -> None:
        self._waiting_strangers.pop(connection, None)
        self._waiting.pop(connection, None)

    async def drain(self, seconds: float) -> None:
        """Close those that are idle, let the others finish, and abort what takes longer."""
        self.is_draining = True
        self._all_closed.clear()
        for connection in list(self._open):
            connection.drain()
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        if self._open:
            try:
                await asyncio.wait_for(self._all_closed.wait(), seconds)
            except TimeoutError:
                log.warning("connections.aborted", connections=len(self._open))
                for connection in list(self._open):
                    connection.abort()
        # Of senders that hung up: their events may be on the way to the broker.
        if self.answering:
            await asyncio.wait(self.answering, timeout=max(end - loop.time(), 0))


class _Body:
    """A request's body: the connection feeds it, the handler reads it."""

    __slots__ = ("_chunks", "_connection", "_is_broken", "_waiter", "is_complete", "size")

    def __init__(self, connection: "_Connection") -> None:
        self._connection = connection
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

    def __aiter__(self) -> "_Body":
        return self

    async def __anext__(self) -> bytes:
        """Raises: BodyIncomplete."""
        while not self._chunks:
            if self._is_broken:
                raise BodyIncomplete
            if self.is_complete:
                raise StopAsyncIteration
            self._connection.invite_body()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        chunk = self._chunks.popleft()
        self.size -= len(chunk)
        self._connection.regulate_reading()
        return chunk

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


@dataclass(slots=True)
class _Exchange:
    request: Request
    body: _Body
    keep_alive: bool
    expects_continue: bool


class _Connection(asyncio.Protocol):
    """The callbacks of asyncio, those of the parser, and the order of requests and answers."""

    def __init__(self, connections: _Connections) -> None:
        self._connections = connections
        self._limits = connections.limits
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[_Exchange | Response] = deque()
        self._current: _Exchange | None = None
        self._incoming: _Body | None = None
        self._refusal: Response | None = None
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        # Bytes that arrived since a part of a body did.
        self._overhead = 0
        self._is_reading_head = False
        self._has_new_head = False
        self._has_eof = False
        self._has_accepted_request = False
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
        # The two refer to each other.
        del self._parser

    def eof_received(self) -> bool:
        """The sender sends no more, and may still read."""
        self._has_eof = True
        if not self._is_over:
            if self._is_reading_head:
                self._refuse(_malformed("The request ended within its headers."))
            self._fail_body()
            self._is_over = True
        return bool(self._current or self._queue)

    def data_received(self, data: bytes) -> None:
        while data and not self._is_over:
            data = self._feed(data)

    def pause_writing(self) -> None:
        self._can_write = False
        self._watch(self._limits.idle_seconds)

    def resume_writing(self) -> None:
        self._can_write = True
        self._next()

    # The parser

    def on_message_begin(self) -> None:
        self._target = b""
        self._fields = []
        self._overhead = 0
        self._is_reading_head = self._has_new_head = True

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        # Of trailers nothing is used.
        if self._is_reading_head:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        self._is_reading_head = self._has_new_head = False
        if self._refusal is not None or self._is_over or self._parser.should_upgrade():
            return
        method = self._parser.get_method().decode("ascii")
        headers = _headers(self._fields)
        version = self._parser.get_http_version()
        self._refusal = self._why_refused(version, headers)
        path = _path(self._target)
        if path is None:
            self._refusal = self._refusal or _malformed("The request's target is neither a path nor a URL.")
        if self._refusal is not None or path is None:
            return
        self._incoming = body = _Body(self)
        exchange = _Exchange(
            Request(method, path, headers, body),
            body,
            keep_alive=version == "1.1" and self._parser.should_keep_alive(),
            expects_continue=headers.get("expect", "").lower() == "100-continue" and version == "1.1",
        )
        if self._can_write:
            self._connections.deadlines.forget(self)
        self._queue.append(exchange)
        self._next()

    def on_body(self, chunk: bytes) -> None:
        self._overhead = 0
        if self._incoming is not None:
            self._incoming.feed(chunk)

    def on_message_complete(self) -> None:
        self._overhead = 0
        if self._incoming is not None:
            self._incoming.complete()
            self._incoming = None
            last = self._queue[-1] if self._queue else self._current
            if isinstance(last, _Exchange) and not last.keep_alive:
                self._is_over = True

    # Requests

    def _feed(self, data: bytes) -> bytes:
        """Parse; returns bytes to parse again, almost always none."""
        self._overhead += len(data)
        again = b""
        fault = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            again = self._without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError:
            log.exception("connection.failed")
            self.abort()
            return b""
        except httptools.HttpParserError as error:
            fault = str(error)
        if self._is_over:
            return b""
        if self._refusal is None and fault is None and self._overhead > self._limits.header_bytes:
            fault = "too many bytes outside of a body"
            if self._is_reading_head:
                self._refusal = self._head_too_large()
        if self._refusal is not None:
            self._refuse(self._refusal)
        elif fault is not None:
            self._break_off(fault)
        elif self._has_new_head:
            self._has_new_head = False
            self._watch(self._limits.header_seconds)
        self.regulate_reading()
        return again

    def _break_off(self, fault: str) -> None:
        """The handler, which waits for the body, answers a malformed one."""
        if self._incoming is None:
            self._refuse(_malformed(f"The request is not valid HTTP/1.1: {fault}."))
            return
        log.debug("body.malformed", fault=fault)
        self._fail_body()
        self._is_over = True

    def _fail_body(self) -> None:
        if self._incoming is not None:
            self._incoming.fail()
            self._incoming = None

    def _without_upgrade(self, rest: bytes) -> bytes:
        """RFC 9110, 7.8: an upgrade may be ignored. The parser leaves the body to the new protocol, so it
        gets the same request once more without the offer (Java's HTTP client offers h2c with each POST)."""
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._refusal = _malformed("This server is not a proxy.")
            return b""
        version = self._parser.get_http_version().encode("ascii")
        self._parser = httptools.HttpRequestParser(self)
        fields = [(name, value) for name, value in self._fields if name.lower() != b"upgrade"]
        head = b"%s %s HTTP/%s\r\n" % (method, self._target, version)
        return head + b"".join(b"%s: %s\r\n" % field for field in fields) + b"\r\n" + rest

    def _why_refused(self, version: str, headers: dict[str, str]) -> Response | None:
        """Checks that the parser does not make."""
        if version not in ("1.0", "1.1"):
            return _malformed("Use HTTP/1.1.")
        size = len(self._target) + sum(len(name) + len(value) + 4 for name, value in self._fields)
        if size > self._limits.header_bytes:
            return self._head_too_large()
        if len(self._queue) >= MOST_PIPELINED:
            return _malformed(f"More than {MOST_PIPELINED} requests came before the first was answered.")
        hosts = sum(name.lower() == b"host" for name, _ in self._fields)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            return _malformed("The request must have exactly one Host header.")
        coding = headers.get("transfer-encoding")
        if coding is None:
            return None
        if version == "1.0":
            return _malformed("HTTP/1.0 does not allow Transfer-Encoding.")
        if coding.lower() != "chunked":
            detail = "Send the body with Content-Length, or chunked and not encoded further."
            return _malformed(detail)
        return None

    def _head_too_large(self) -> Response:
        detail = f"Headers may have {self._limits.header_bytes} bytes at most."
        return Refused(431, "Headers too large", detail, (_CLOSE,)).response

    def _refuse(self, response: Response) -> None:
        """Answer without the handler, in the order of requests, and accept nothing further."""
        metrics.HTTP_REFUSED.labels(str(response.status)).inc()
        self._fail_body()
        self._is_over = True
        self._queue.append(response)
        self._next()

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
        if not self._is_reading_head:
            self._connections.deadlines.forget(self)
        task = asyncio.get_running_loop().create_task(self._answer(todo))
        self._connections.answering.add(task)
        task.add_done_callback(self._connections.answering.discard)

    async def _answer(self, exchange: _Exchange) -> None:
        response = await self._connections.handle(exchange.request)
        self._current = None
        if self._transport is None:
            return
        self._has_accepted_request |= response.status < HTTPStatus.BAD_REQUEST
        is_whole = exchange.body.is_complete
        closes = (
            not (exchange.keep_alive and is_whole)
            or _CLOSE in response.headers
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
            self._connections.is_waiting(self, stranger=not self._has_accepted_request)
            if not self._is_reading_head:
                self._watch(self._limits.idle_seconds)

    def _write(self, response: Response, method: str, *, closes: bool) -> None:
        assert self._transport is not None, "who is gone is not answered"
        self._transport.write(_encode(response, method, closes=closes))

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
        is_idle = self._current is None and not self._queue and not self._is_reading_head
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
        if self._is_reading_head and self._can_write and not self._is_lingering:
            detail = f"The headers must arrive within {self._limits.header_seconds:g} seconds."
            self._is_reading_head = False
            self._refuse(Refused(408, "Headers too slow", detail, (_CLOSE,)).response)
        else:
            self.abort()


def _headers(fields: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """By lower-case name; of one that came several times, all values (RFC 9110, 5.3): none hides another."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name = raw_name.decode("ascii").lower()
        # The parser leaves the blanks after a value, which are not part of it (RFC 9110, 5.5).
        value = raw_value.strip(b" \t").decode(errors="surrogateescape")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _path(target: bytes) -> str | None:
    """Without the query, and decoded; None for what is neither a path nor a URL."""
    text = target.decode("ascii", errors="replace")
    if not text.startswith("/"):
        if text == "*":
            return text
        try:
            url = urlsplit(text)
        except ValueError:
            return None
        if url.scheme not in ("http", "https") or not url.netloc:
            return None
        text = url.path or "/"
    path = text.partition("?")[0].partition("#")[0]
    return unquote(path) if "%" in path else path


def _malformed(detail: str) -> Response:
    return Refused(400, "Malformed request", detail, (_CLOSE,)).response


def _encode(response: Response, method: str, *, closes: bool) -> bytes:
    has_length = response.status != HTTPStatus.NO_CONTENT
    lines = [
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
        f"date: {_date(int(time()))}",
    ]
    if response.body:
        lines.append(f"content-type: {response.content_type}")
    if has_length:
        lines.append(f"content-length: {len(response.body)}")
    lines += [f"{name}: {value}" for name, value in response.headers if name != "connection"]
    if closes:
        lines.append("connection: close")
    head = "\r\n".join([*lines, "", ""]).encode()
    return head if method == "HEAD" or not has_length else head + response.body


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
