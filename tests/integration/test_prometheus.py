"""Answers of Prometheus that are no history, over real connections; test_console_history has a real one."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from tests.support.stack import free_port
from worker.tools import prometheus
from worker.tools.prometheus import PrometheusUnavailable, Span, query_range

SPAN = Span(datetime(2026, 1, 1, tzinfo=UTC), timedelta(seconds=60), 3)


@asynccontextmanager
async def _answering(status: int, body: bytes, requests: list[bytes]) -> AsyncIterator[str]:
    """A server that answers everything so; with the status 0 it does not answer."""

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        requests.append(head + await reader.readexactly(length))
        if status:
            writer.write(f"HTTP/1.1 {status} x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)

    writers: list[asyncio.StreamWriter] = []
    port = free_port()
    server = await asyncio.start_server(on_connection, "127.0.0.1", port)
    try:
        yield f"http://user:p%40ss-word-1@127.0.0.1:{port}/prometheus"
    finally:
        for writer in writers:
            writer.close()
        server.close()


def _matrix(*series: tuple[str, list[tuple[float, str]]]) -> bytes:
    result = [{"metric": {"family": family}, "values": values} for family, values in series]
    return orjson.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}})


async def test_points_are_in_their_places_and_what_is_no_number_is_unknown() -> None:
    end = SPAN.end.timestamp()
    body = _matrix(
        ("orders", [(end - 120, "1.5"), (end, "NaN")]), ("returns", [(end - 60, "+Inf"), (end, "2")])
    )
    requests: list[bytes] = []
    async with _answering(200, body, requests) as url:
        rows = await query_range(url, "up", SPAN, "family")

    assert rows == {"orders": [1.5, None, None], "returns": [None, None, 2.0]}
    (request,) = requests
    assert request.startswith(b"POST /prometheus/api/v1/query_range HTTP/1.1\r\n")
    assert base64.b64encode(b"user:p@ss-word-1") in request
    assert request.endswith(b"query=up&start=1767225480.000&end=1767225600.000&step=60&timeout=5s")


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"<html>", "127.0.0.1 answers something else than Prometheus: HTTP 200"),
        (502, b"", "127.0.0.1 answers something else than Prometheus: HTTP 502"),
        (200, b'{"status": "success", "data": {"result": [{"metric": {}, "values": 7}]}}', "something else"),
        (200, _matrix(("orders", [(SPAN.end.timestamp(), "many")])), "something else than numbers"),
        (401, b"Unauthorized", "it refuses our user: HTTP 401"),
        (400, b'{"status": "error", "errorType": "bad_data", "error": "parse error"}', "query: parse error"),
        (200, b" " * 5_000_000, "its answer is too long"),
        (0, b"", "no answer within 0.2 s"),
    ],
)
async def test_what_is_no_history_is_named(
    monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, reason: str
) -> None:
    if not status:
        monkeypatch.setattr(prometheus, "TIMEOUT_SECONDS", 0.2)
    async with _answering(status, body, []) as url:
        with pytest.raises(PrometheusUnavailable) as caught:
            await query_range(url, "up", SPAN, "family")

    assert reason in str(caught.value)
    assert caught.value.sentence.endswith("see STOCKHOOK_PROMETHEUS_URL")
    assert "ss-word-1" not in caught.value.sentence
