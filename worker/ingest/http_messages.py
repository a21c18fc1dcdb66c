"""Heads of requests and whole responses, between bytes and values."""

from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import time
from urllib.parse import unquote, urlsplit

from worker.ingest.exchange import Refused, Response

CLOSE = ("connection", "close")


def read_headers(fields: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """By lower-case name; of one that came several times, all values (RFC 9110, 5.3): none hides another."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name = raw_name.decode("ascii").lower()
        # The parser leaves the blanks after a value, which are not part of it (RFC 9110, 5.5).
        value = raw_value.strip(b" \t").decode(errors="surrogateescape")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def read_path(target: bytes) -> str | None:
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


def malformed(detail: str) -> Response:
    return Refused(400, "Malformed request", detail, (CLOSE,)).response


def encode(response: Response, method: str, *, closes: bool) -> bytes:
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
