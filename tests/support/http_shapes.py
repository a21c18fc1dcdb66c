"""Requests as bytes, most of them malformed, with the allowed answers."""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

SECRET_HEADER = "X-Webhook-Secret"
EVENT = b'{"event_type":"order.created","timestamp":"2026-03-01T12:00:00Z","event_data":{"order_id":"1"}}'

ANSWER_SECONDS = 8.0


class Ending(Enum):
    """The sender's action after its last byte."""

    WAITS = "waits"
    HALF_CLOSES = "half-closes"
    CLOSES = "closes"
    RESETS = "resets"


NO_ANSWER = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """`statuses` are the allowed answers; `is_event` is whether an event is stored."""

    name: str
    wire: bytes
    statuses: frozenset[int]
    ending: Ending = Ending.WAITS
    is_event: bool = False


def head(secret: str, *lines: str, version: str = "1.1", path: str = "/webhooks/ovoko") -> bytes:
    fixed = [f"POST {path} HTTP/{version}", "Host: x", f"{SECRET_HEADER}: {secret}"]
    return "\r\n".join([*fixed, *lines, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"
H2C_OFFER = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")


def _incomplete_bodies(secret: str) -> Iterator[Shape]:
    """The received part is a complete event, but the body is incomplete."""
    invites = frozenset({408})
    unread = frozenset({NO_ANSWER, 408})
    for version in ("1.1", "1.0"):
        longer = head(secret, f"Content-Length: {len(EVENT) + 1}", version=version)
        yield Shape(f"HTTP/{version} length, half-closed", longer + EVENT, invites, Ending.HALF_CLOSES)
        yield Shape(f"HTTP/{version} length, closed", longer + EVENT, unread, Ending.CLOSES)
        yield Shape(f"HTTP/{version} length, reset", longer + EVENT, unread, Ending.RESETS)
    start = head(secret, CHUNKED)
    yield Shape("chunks end early, half-closed", start + chunk(EVENT), invites, Ending.HALF_CLOSES)
    yield Shape("chunks end early, closed", start + chunk(EVENT), unread, Ending.CLOSES)
    yield Shape("chunks end early, reset", start + chunk(EVENT), unread, Ending.RESETS)
    within = start + chunk(EVENT)[:-4]
    yield Shape("a chunk ends early, half-closed", within, invites, Ending.HALF_CLOSES)
    yield Shape(
        "no last line break, half-closed", start + chunk(EVENT) + b"0\r\n", invites, Ending.HALF_CLOSES
    )
    malformed = frozenset({400, 408})
    for size in (b"zz", b"-1", b"+1", b"0x1", b"f" * 17, b"1" + b"0" * 17, b" 1", b""):
        name = f"chunk size {size.decode()!r}"
        yield Shape(name, start + chunk(EVENT) + size + b"\r\nx\r\n" + LAST_CHUNK, malformed)
    yield Shape("chunk without its end", start + chunk(EVENT)[:-2] + b"XY" + LAST_CHUNK, malformed)
    yield Shape("chunk with bare line feed", start + b"1\nx\r\n" + LAST_CHUNK, malformed)


def _ambiguous_lengths(secret: str) -> Iterator[Shape]:
    """If a proxy and a server interpret such a request differently, a second one passes (smuggling)."""
    refused = frozenset({400})
    chunks = chunk(EVENT) + LAST_CHUNK
    length = f"Content-Length: {len(EVENT)}"
    yield Shape("length and chunks", head(secret, length, CHUNKED) + chunks, refused)
    yield Shape("chunks and length", head(secret, CHUNKED, length) + chunks, refused)
    yield Shape("two lengths", head(secret, length, "Content-Length: 0") + EVENT, refused)
    yield Shape("list of lengths", head(secret, f"{length}, {len(EVENT)}") + EVENT, refused)
    yield Shape("length +1", head(secret, "Content-Length: +1") + EVENT, refused)
    yield Shape("length -1", head(secret, "Content-Length: -1") + EVENT, refused)
    for coding in ("gzip, chunked", "gzip", "chunked, gzip", "identity", "xchunked", "chunked, chunked"):
        wire = head(secret, f"Transfer-Encoding: {coding}") + chunks
        yield Shape(f"coding {coding}", wire, refused)
    twice = head(secret, CHUNKED, "Transfer-Encoding: identity")
    yield Shape("two codings", twice + chunks, refused)
    yield Shape("coding, blank before colon", head(secret, "Transfer-Encoding : chunked") + chunks, refused)
    yield Shape("HTTP/1.0 with chunks", head(secret, CHUNKED, version="1.0") + chunks, refused)
    offer = head(secret, *H2C_OFFER, CHUNKED, version="1.0")
    yield Shape("HTTP/1.0 with chunks and offer of HTTP/2", offer + chunks, refused)
    # The parser allows blanks there, but no tab.
    tab = head(secret, f"{CHUNKED}\t")
    yield Shape("coding, tab after value", tab + chunks, frozenset({400, 408}))
    yield Shape("folded header", head(secret, "X-A: b", " c", length) + EVENT, refused)
    yield Shape("bare line feed in head", head(secret, f"X-A: b\n{length}") + EVENT, refused)
    yield Shape("bare carriage return in head", head(secret, f"X-A: b\r{length}") + EVENT, refused)
    yield Shape("zero byte in head", head(secret, "X-A: b\0c", length) + EVENT, refused)


def _undeclared_bodies(secret: str) -> Iterator[Shape]:
    """Such a request has no body (RFC 9112, 6.3), even if its sender sends one."""
    refused = frozenset({411})
    for version in ("1.1", "1.0"):
        for name, lines in (("", ()), (", close", ("Connection: close",)), (", h2c", H2C_OFFER)):
            bare = head(secret, *lines, version=version)
            yield Shape(f"HTTP/{version}{name}, no length", bare, refused)
            yield Shape(f"HTTP/{version}{name}, no length, bytes", bare + EVENT, refused)
            yield Shape(
                f"HTTP/{version}{name}, no length, half-closed", bare + EVENT, refused, Ending.HALF_CLOSES
            )
    whole = head(secret, f"Content-Length: {len(EVENT)}") + EVENT
    yield Shape("no length, a whole request as body", head(secret) + whole, refused)


def _malformed_heads(secret: str) -> Iterator[Shape]:
    length = f"Content-Length: {len(EVENT)}"
    twice = head(secret, f"{SECRET_HEADER}: another", length)
    yield Shape("secret twice, the second wrong", twice + EVENT, frozenset({401}))
    twice = head("another", f"{SECRET_HEADER}: {secret}", length)
    yield Shape("secret twice, the first wrong", twice + EVENT, frozenset({401}))
    nameless = head(secret, length).replace(b"Host: x\r\n", b"")
    yield Shape("no Host", nameless + EVENT, frozenset({400}))
    yield Shape("two Hosts", head(secret, "Host: y", length) + EVENT, frozenset({400}))
    yield Shape(
        "200 kB of header", head(secret, f"X-A: {'a' * 200_000}", length) + EVENT, frozenset({400, 431})
    )
    many = [f"X-{number}: a" for number in range(20_000)]
    yield Shape("20,000 headers", head(secret, *many, length) + EVENT, frozenset({400, 431}))
    yield Shape("a long target", head(secret, length, path="/" + "a" * 200_000), frozenset({400, 414, 431}))
    endless = head(secret, CHUNKED) + b"1;" + b"a" * 200_000
    yield Shape("endless chunk extension", endless, frozenset({400, 408, 431}))
    endless = head(secret, CHUNKED) + chunk(EVENT) + b"0\r\nX-A: " + b"a" * 200_000
    yield Shape("endless trailer", endless, frozenset({400, 408, 431}))
    yield Shape("HTTP/2.0", head(secret, length, version="2.0") + EVENT, frozenset({400}))
    yield Shape("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frozenset({400}))
    yield Shape("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), frozenset({400}))
    yield Shape("CONNECT", b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", frozenset({400, 404, 405}))
    yield Shape("half a head, half-closed", head(secret)[:40], frozenset({400, 408}), Ending.HALF_CLOSES)
    yield Shape("empty URL", head(secret, length, path="http://[/") + EVENT, frozenset({400}))


def _plain(secret: str) -> Iterator[Shape]:
    """Valid requests."""
    accepted = frozenset({200})

    def plain(name: str, wire: bytes, ending: Ending = Ending.WAITS) -> Shape:
        return Shape(name, wire, accepted, ending, is_event=True)

    length = f"Content-Length: {len(EVENT)}"
    yield plain("length", head(secret, length) + EVENT)
    yield plain("HTTP/1.0", head(secret, length, version="1.0") + EVENT)
    yield plain("half-closed when whole", head(secret, length) + EVENT, Ending.HALF_CLOSES)
    yield plain("chunks", head(secret, CHUNKED) + chunk(EVENT[:9]) + chunk(EVENT[9:]) + LAST_CHUNK)
    trailer = head(secret, CHUNKED, "Trailer: X-A") + chunk(EVENT) + b"0\r\nX-A: b\r\n\r\n"
    yield plain("chunks with extension and trailer", trailer.replace(b"\r\n{", b";a=b\r\n{"))
    yield plain("URL as target", head(secret, length, path="http://x/webhooks/ovoko?a=b") + EVENT)
    yield plain("offer of HTTP/2", head(secret, *H2C_OFFER, length) + EVENT)
    nameless = head(secret, *H2C_OFFER, length, version="1.0").replace(b"Host: x\r\n", b"")
    yield plain("HTTP/1.0 without Host, offer of HTTP/2", nameless + EVENT)
    yield plain("empty lines before", b"\r\n\r\n" + head(secret, length) + EVENT)
    for blanks in (" ", "\t", " \t "):
        yield plain(f"secret, {blanks!r} after value", head(f"{secret}{blanks}", length) + EVENT)
        yield plain(f"length, {blanks!r} after value", head(secret, f"{length}{blanks}") + EVENT)
    blank = head(secret, f"{CHUNKED}  ") + chunk(EVENT) + LAST_CHUNK
    yield plain("coding, blanks after value", blank)


KINDS: dict[str, Callable[[str], Iterator[Shape]]] = {
    "incomplete bodies": _incomplete_bodies,
    "ambiguous lengths": _ambiguous_lengths,
    "undeclared bodies": _undeclared_bodies,
    "malformed heads": _malformed_heads,
    "plain requests": _plain,
}


def shapes(secret: str) -> Iterator[Shape]:
    for kind in KINDS.values():
        yield from kind(secret)


async def send(port: int, shape: Shape, *, piece_bytes: int | None = None) -> int:
    """The status of the first final answer; NO_ANSWER if the connection ends without one.

    Raises:
        TimeoutError: No answer, and the connection stays open.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with suppress(OSError):
            size = piece_bytes or len(shape.wire)
            for place in range(0, len(shape.wire), size):
                writer.write(shape.wire[place : place + size])
                await writer.drain()
                await asyncio.sleep(0)
            _end(writer, shape.ending)
        if shape.ending in (Ending.CLOSES, Ending.RESETS):
            return NO_ANSWER
        async with asyncio.timeout(ANSWER_SECONDS):
            return await _status(reader)
    finally:
        writer.close()


def _end(writer: asyncio.StreamWriter, ending: Ending) -> None:
    match ending:
        case Ending.WAITS:
            pass
        case Ending.HALF_CLOSES:
            writer.write_eof()
        case Ending.CLOSES:
            writer.close()
        case Ending.RESETS:
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.close()


async def _status(reader: asyncio.StreamReader) -> int:
    try:
        while True:
            answer = await reader.readuntil(b"\r\n\r\n")
            status = int(answer[9:12])
            if status != 100:
                return status
    except (OSError, asyncio.IncompleteReadError):
        return NO_ANSWER
