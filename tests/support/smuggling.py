"""Requests that two HTTP parsers may interpret differently, and a tap that records a server's requests.

Each attack has hidden bytes: a second request, or the beginning of one that the next request on the
connection would complete. They claim to come from FORGED.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product

import httptools

from tests.support.events import body, order_created

FORGED = "192.0.2.66"
OVOKO = "/webhooks/ovoko"
END = b"0\r\n\r\n"

_CODINGS = (
    "Transfer-Encoding: chunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding:\tchunked",
    "Transfer-Encoding:\x0bchunked",
    "Transfer-Encoding: \x00chunked",
    "Transfer-Encoding\x00: chunked",
    "Transfer-Encoding: chunked\x00",
    " Transfer-Encoding: chunked",
    "X-A: b\nTransfer-Encoding: chunked",
    "X-A: b\rTransfer-Encoding: chunked",
    "X-A: b\r\n\tTransfer-Encoding: chunked",
    "Transfer-Encoding:\r\n chunked",
    "Transfer-Encoding:\n chunked",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: , chunked",
    "Transfer-Encoding: chunked,",
    "Transfer-Encoding: chunked;a=b",
    'Transfer-Encoding: "chunked"',
    "TRANSFER-ENCODING: CHUNKED",
    "Transfer_Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding",
)
# {0} is a length of zero, and {1} the length of the hidden bytes.
_LENGTHS = (
    "Content-Length: {0}\r\nContent-Length: {1}",
    "Content-Length: {1}\r\nContent-Length: {0}",
    "Content-Length: {0}, {1}",
    "Content-Length: {1}, {1}",
    "Content-Length: +{1}",
    "Content-Length: -{1}",
    "Content-Length: 0x{1}",
    "Content-Length: {0} {1}",
    "Content-Length: {0}_{1}",
    "Content-Length: {1}\x00",
    "Content-Length:\x0b{1}",
    "Content-Length : {1}",
    "Content-Length:\r\n {1}",
    "Content_Length: {1}",
    "X-A: b\nContent-Length: {1}",
    "X-A: b\rContent-Length: {1}",
    "Content-Length: {1}\r\nConnection: Content-Length",
    "Content-Length: {1}\r\nExpect: 100-continue",
    "Content-Length: {0}\r\nExpect: 100-continue",
    "Content-Length: {1}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 777",
    "Content-Length: {1}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
    "Content-Length: 18446744073709551616",
)
_HEADS = (
    ("two hosts", "POST {path} HTTP/1.1\r\nHost: a\r\nHost: b"),
    ("two hosts, folded", "POST {path} HTTP/1.1\r\nHost: a\r\n b"),
    ("absolute target", "POST http://other{path} HTTP/1.1\r\nHost: a"),
    ("absolute target with credentials", "POST http://a@b:c@d{path} HTTP/1.1\r\nHost: a"),
    ("target with a blank", "POST {path} /readyz HTTP/1.1\r\nHost: a"),
    ("target with a line feed", "POST {path}\n HTTP/1.1\r\nHost: a"),
    ("target with a version", "POST {path}%20HTTP/1.1%0d%0aX:%20 HTTP/1.1\r\nHost: a"),
    ("dots", "POST {path}/../../readyz HTTP/1.1\r\nHost: a"),
    ("encoded slashes", "POST /webhooks%2fovoko HTTP/1.1\r\nHost: a"),
    ("two blanks", "POST  {path}  HTTP/1.1\r\nHost: a"),
    ("tabs", "POST\t{path}\tHTTP/1.1\r\nHost: a"),
    ("version 1.2", "POST {path} HTTP/1.2\r\nHost: a"),
    ("version 2.0", "POST {path} HTTP/2.0\r\nHost: a"),
    ("version 01.1", "POST {path} HTTP/01.1\r\nHost: a"),
    ("no version", "POST {path}\r\nHost: a"),
    ("HTTP/1.0", "POST {path} HTTP/1.0\r\nHost: a\r\nConnection: keep-alive"),
    ("GET", "GET {path} HTTP/1.1\r\nHost: a"),
    ("HEAD", "HEAD {path} HTTP/1.1\r\nHost: a"),
    ("CONNECT", "CONNECT {path} HTTP/1.1\r\nHost: a"),
    ("zero byte in the method", "POST\x00 {path} HTTP/1.1\r\nHost: a"),
    ("name with a blank", "POST {path} HTTP/1.1\r\nHost: a\r\nX A: b"),
    ("no name", "POST {path} HTTP/1.1\r\nHost: a\r\n: b"),
    ("no colon", "POST {path} HTTP/1.1\r\nHost: a\r\nX-A"),
    ("folded first line", "POST {path} HTTP/1.1\r\n X-A: b\r\nHost: a"),
    ("secret as hop-by-hop header", "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: X-Webhook-Secret"),
)


@dataclass(frozen=True, slots=True)
class Attack:
    name: str
    wire: bytes


def hidden_parts(secret: str) -> dict[str, bytes]:
    """A request with this secret, and two beginnings: the next request becomes its header or its body."""
    start = f"POST {OVOKO} HTTP/1.1\r\nHost: hidden\r\nX-Forwarded-For: {FORGED}\r\n"
    event = body(order_created("hidden"))
    complete = f"{start}X-Webhook-Secret: {secret}\r\nContent-Length: {len(event)}\r\n\r\n"
    return {
        "request": complete.encode() + event,
        "header": f"{start}Content-Length: 2\r\nX-A: ".encode(),
        "body": f"{start}X-Webhook-Secret: {secret}\r\nContent-Length: 300\r\n\r\n".encode(),
    }


def attacks(own_secret: str, other_secret: str) -> Iterator[Attack]:
    """Attacks in HTTP/1.1. The sender has its own secret; the hidden bytes have another marketplace's."""
    for (kind, hidden), coding in product(hidden_parts(other_secret).items(), _CODINGS):
        early = END + hidden
        for order in ("length first", "coding first"):
            lines = [f"Content-Length: {len(early)}", coding]
            head = _head(own_secret, *(lines if order == "length first" else reversed(lines)))
            yield Attack(f"chunks end before the length, {order}, {coding!r}, {kind}", head + early)
        size = b"%x\r\n" % len(hidden)
        head = _head(own_secret, f"Content-Length: {len(size)}", coding)
        yield Attack(
            f"length ends before the chunks, {coding!r}, {kind}", head + size + hidden + b"\r\n" + END
        )
        yield Attack(f"chunks alone, {coding!r}, {kind}", _head(own_secret, coding) + early)
    for (kind, hidden), length in product(hidden_parts(other_secret).items(), _LENGTHS):
        head = _head(own_secret, length.format(0, len(hidden)))
        yield Attack(f"length {length!r}, {kind}", head + hidden)
    for (kind, hidden), (name, start) in product(hidden_parts(other_secret).items(), _HEADS):
        lines = [
            start.format(path=OVOKO),
            f"X-Webhook-Secret: {own_secret}",
            f"Content-Length: {len(hidden)}",
        ]
        yield Attack(f"{name}, {kind}", "\r\n".join([*lines, "", ""]).encode() + hidden)
        bare = "\n".join([lines[0].replace("\r\n", "\n"), *lines[1:], "", ""]).encode()
        yield Attack(f"{name}, bare line feeds, {kind}", bare + hidden)
    for kind, hidden in hidden_parts(other_secret).items():
        for name, chunks in _chunks(hidden):
            wire = _head(own_secret, "Transfer-Encoding: chunked") + chunks
            yield Attack(f"chunks: {name}, {kind}", wire)


def _head(secret: str, *lines: str) -> bytes:
    fixed = [f"POST {OVOKO} HTTP/1.1", "Host: a", f"X-Webhook-Secret: {secret}"]
    return "\r\n".join([*fixed, *lines, "", ""]).encode("latin-1")


def _chunks(hidden: bytes) -> Iterator[tuple[str, bytes]]:
    inner = END + hidden
    size = b"%x" % len(inner)
    digits = b"%x" % len(size)
    filler = b"x" * len(size)
    # A parser that ends the line there reads the size of a chunk with the rest; another reads a last chunk.
    for ending in (b"\n", b"\r", b"\n\r", b"\x00\n"):
        held = digits + b";" + ending + filler + b"\r\n" + size + b"\r\n" + inner + b"\r\n" + END
        yield f"extension with {ending!r}", held
        yield (
            f"size and {ending!r}",
            digits + ending + filler + b"\r\n" + size + b"\r\n" + inner + b"\r\n" + END,
        )
    yield "bare line feeds", b"1\nA\n0\n\n" + hidden
    yield "data longer than its size", b"1\r\nA" + inner + b"\r\n" + END
    yield "data without its end", b"1\r\nAA\r\n" + inner
    yield "extension with quotes", b'1;a="\r\nA\r\n' + END + hidden
    yield "long extension", b"1;" + b"a" * 9000 + b"\r\nA\r\n" + END + hidden
    yield "trailers", b"1\r\nA\r\n0\r\nContent-Length: 5\r\nX-Forwarded-For: 192.0.2.66\r\n\r\n" + hidden
    yield "trailers, bare line feeds", b"1\r\nA\r\n0\nX-A: b\n\n" + hidden
    for data in (
        b"-1",
        b"+1",
        b"0x1",
        b" 1",
        b"1 ",
        b"1_0",
        b"10000000000000000",
        b"fffffffffffffffff",
        b"00000001",
    ):
        yield f"size {data!r}", data + b"\r\nA\r\n" + END + hidden


def http2_attacks(own_secret: str, other_secret: str) -> Iterator[Attack]:
    """Requests that a proxy must not translate to HTTP/1.1 unchanged."""
    fields = [(":method", "POST"), (":scheme", "https"), (":authority", "a"), (":path", OVOKO)]
    secret = ("x-webhook-secret", own_secret)
    for kind, part in hidden_parts(other_secret).items():
        hidden = part.decode()
        after = f"\r\n\r\n{hidden}"
        chunks = END + part
        plain = [*fields, secret]
        yield _http2(f"length 0, {kind}", [*plain, ("content-length", "0")], part)
        yield _http2(f"length too small, {kind}", [*plain, ("content-length", "1")], part)
        yield _http2(f"two lengths, {kind}", [*plain, ("content-length", "0"), ("content-length", "9")], part)
        yield _http2(f"coding, {kind}", [*plain, ("transfer-encoding", "chunked")], chunks)
        yield _http2(f"coding in capitals, {kind}", [*plain, ("Transfer-Encoding", "chunked")], chunks)
        for ending in ("\r\n", "\n", "\r", "\x00"):
            line = f"b{ending}transfer-encoding: chunked"
            yield _http2(f"value with {ending!r}, {kind}", [*plain, ("x-a", line)], chunks)
            name = f"x-a: b{ending}transfer-encoding"
            yield _http2(f"name with {ending!r}, {kind}", [*plain, (name, "chunked")], chunks)
        yield _http2(f"value with a request, {kind}", [*plain, ("x-a", f"b{after}")], b"")
        yield _http2(f"name with a colon, {kind}", [*plain, ("transfer-encoding: chunked\r\nx", "b")], chunks)
        yield _http2(f"connection, {kind}", [*plain, ("connection", "x-webhook-secret")], part)
        yield _http2(f"host beside authority, {kind}", [*plain, ("host", f"b{after}")], part)
        yield _http2(f"two paths, {kind}", [*plain, (":path", "/readyz")], part)
        for place, (name, value) in enumerate(fields):
            changed = [*fields, secret]
            changed[place] = (name, f"{value} HTTP/1.1\r\nHost: a{after}")
            yield _http2(f"{name} with a request, {kind}", changed, part)


def _http2(name: str, fields: list[tuple[str, str]], data: bytes) -> Attack:
    block = b"".join(b"\0" + _text(field) + _text(value) for field, value in fields)
    frames = _frame(4, 0, 0, b"") + _frame(4, 1, 0, b"") + _frame(1, 4 if data else 5, 1, block)
    if data:
        frames += _frame(0, 1, 1, data)
    return Attack(f"HTTP/2: {name}", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """RFC 9113, 4.1."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _text(text: str) -> bytes:
    """A string of a header block, without compression (RFC 7541, 5.2)."""
    data = text.encode("latin-1")
    length = len(data)
    if length < 127:
        return bytes([length]) + data
    length -= 127
    head = b"\x7f"
    while length >= 128:
        head += bytes([length % 128 + 128])
        length //= 128
    return head + bytes([length]) + data


@dataclass(slots=True)
class Tap:
    """Forwards connections to a server, and records the bytes of the clients."""

    port: int
    streams: list[bytearray] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recorded = bytearray()
        self.streams.append(recorded)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await asyncio.gather(
                _pass(reader, server_writer, recorded), _pass(server_reader, writer, bytearray())
            )
        finally:
            server_writer.close()
            writer.close()

    def requests(self) -> Iterator[dict[str, list[str]]]:
        """The headers of each webhook, read by the parser of the ingest until the first error."""
        for stream in self.streams:
            reading = _Reading()
            with suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
                httptools.HttpRequestParser(reading).feed_data(bytes(stream))
            yield from reading.requests


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, recorded: bytearray) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            recorded += data
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.close()


@dataclass(slots=True)
class _Reading:
    requests: list[dict[str, list[str]]] = field(default_factory=list)
    _target: bytes = b""
    _fields: dict[str, list[str]] = field(default_factory=dict)

    def on_message_begin(self) -> None:
        self._target = b""
        self._fields = {}

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        # Health checks of the proxy have no sender.
        if self._target != b"/readyz":
            self.requests.append(self._fields)


def was_smuggled(fields: dict[str, list[str]]) -> bool:
    """Whether the request does not come from the proxy, which appends the sender to X-Forwarded-For."""
    addresses = ",".join(fields.get("x-forwarded-for", [FORGED])).split(",")
    return addresses[-1].strip() == FORGED
