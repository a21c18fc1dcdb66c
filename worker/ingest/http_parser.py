"""llhttp (httptools), and the checks that it does not make."""

from dataclasses import dataclass
from typing import Protocol

import httptools

from worker.ingest.exchange import Refused, Response
from worker.ingest.http_messages import CLOSE, malformed, read_headers, read_path


@dataclass(frozen=True, slots=True)
class Head:
    """`path` is without the query, and decoded."""

    method: str
    path: str
    headers: dict[str, str]
    keep_alive: bool
    expects_continue: bool


@dataclass(frozen=True, slots=True)
class Malformed:
    """Bytes that are not HTTP."""

    fault: str


class Listener(Protocol):
    """Receives the requests of a connection, in the order of their bytes."""

    def on_head(self, head: Head) -> Response | None:
        """A response refuses the request."""

    def on_body(self, chunk: bytes) -> None: ...

    def on_complete(self) -> None: ...


class RequestParser:
    """The requests of one connection. `header_bytes` limits a head, and all other bytes outside of a body."""

    def __init__(self, listener: Listener, header_bytes: int) -> None:
        self._listener = listener
        self._header_bytes = header_bytes
        self._parser = httptools.HttpRequestParser(self)
        self._refusal: Response | None = None
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        # Bytes that arrived since a part of a body did.
        self._overhead = 0
        self._is_over = False
        self.is_reading_head = False
        self.heads_started = 0

    def feed(self, data: bytes) -> Response | Malformed | None:
        """The fault in these bytes, or None. After a fault, feed no more.

        Raises:
            httptools.HttpParserCallbackError: The listener raised.
        """
        while data and not self._is_over:
            self._overhead += len(data)
            try:
                self._parser.feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade(data[upgrade.args[0] :])
            except httptools.HttpParserCallbackError:
                raise
            except httptools.HttpParserError as error:
                return None if self._is_over else self._refusal or Malformed(str(error))
            if self._is_over:
                return None
            if self._refusal is None and self._overhead > self._header_bytes:
                if not self.is_reading_head:
                    return Malformed("too many bytes outside of a body")
                self._refusal = self._head_too_large()
            if self._refusal is not None:
                return self._refusal
        return None

    def stop(self) -> None:
        """Ignore what follows."""
        self._is_over = True
        self.is_reading_head = False

    def close(self) -> None:
        """Break the cycle of references between the two parsers, so that no garbage collection is needed."""
        self.stop()
        del self._parser

    # Callbacks of httptools

    def on_message_begin(self) -> None:
        self._target = b""
        self._fields = []
        self._overhead = 0
        self.is_reading_head = True
        self.heads_started += 1

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers are ignored.
        if self.is_reading_head:
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.is_reading_head = False
        if self._refusal is not None or self._is_over or self._parser.should_upgrade():
            return
        version = self._parser.get_http_version()
        headers = read_headers(self._fields)
        path = read_path(self._target)
        self._refusal = self._why_refused(version, headers)
        if self._refusal is None and path is None:
            self._refusal = malformed("The request's target is neither a path nor a URL.")
        if self._refusal is not None or path is None:
            return
        self._refusal = self._listener.on_head(
            Head(
                self._parser.get_method().decode("ascii"),
                path,
                headers,
                keep_alive=version == "1.1" and self._parser.should_keep_alive(),
                expects_continue=headers.get("expect", "").lower() == "100-continue" and version == "1.1",
            )
        )

    def on_body(self, chunk: bytes) -> None:
        self._overhead = 0
        self._listener.on_body(chunk)

    def on_message_complete(self) -> None:
        self._overhead = 0
        self._listener.on_complete()

    # Checks

    def _without_upgrade(self, rest: bytes) -> bytes:
        """RFC 9110, 7.8: an upgrade may be ignored. The parser leaves the body to the new protocol, so it
        gets the same request once more without the offer (Java's HTTP client offers h2c with each POST)."""
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._refusal = malformed("This server is not a proxy.")
            return b""
        version = self._parser.get_http_version().encode("ascii")
        self._parser = httptools.HttpRequestParser(self)
        fields = [(name, value) for name, value in self._fields if name.lower() != b"upgrade"]
        head = b"%s %s HTTP/%s\r\n" % (method, self._target, version)
        return head + b"".join(b"%s: %s\r\n" % field for field in fields) + b"\r\n" + rest

    def _why_refused(self, version: str, headers: dict[str, str]) -> Response | None:
        if version not in ("1.0", "1.1"):
            return malformed("Use HTTP/1.1.")
        size = len(self._target) + sum(len(name) + len(value) + 4 for name, value in self._fields)
        if size > self._header_bytes:
            return self._head_too_large()
        hosts = sum(name.lower() == b"host" for name, _ in self._fields)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            return malformed("The request must have exactly one Host header.")
        coding = headers.get("transfer-encoding")
        if coding is None:
            return None
        if version == "1.0":
            return malformed("HTTP/1.0 does not allow Transfer-Encoding.")
        if coding.lower() != "chunked":
            return malformed("Send the body with Content-Length, or chunked and not encoded further.")
        return None

    def _head_too_large(self) -> Response:
        detail = f"Headers may have {self._header_bytes} bytes at most."
        return Refused(431, "Headers too large", detail, (CLOSE,)).response
