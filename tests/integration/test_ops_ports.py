"""Reading the ops ports of other processes: what answers, what does not, and what is something else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry, Gauge

from tests.support.stack import free_port
from worker.observability.ops_server import serve_ops
from worker.tools.ops_ports import NoAnswer, Process, read_processes

NAMES = ("stockhook_example", "stockhook_other")


@asynccontextmanager
async def _answering(answer: bytes) -> AsyncIterator[str]:
    """Another server, which sends this whatever is requested; an empty answer is none."""

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writers.append(writer)
        writer.write(answer)
        if answer:
            writer.close()

    writers: list[asyncio.StreamWriter] = []
    port = free_port()
    server = await asyncio.start_server(on_connection, "127.0.0.1", port)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        for writer in writers:
            writer.close()
        server.close()


async def test_a_process_reports_its_readiness_and_the_metrics_of_interest() -> None:
    registry = CollectorRegistry()
    example = Gauge("stockhook_example", "An example", ["family", "kind"], registry=registry)
    example.labels("orders", 'a "quoted" kind').set(2)
    example.labels("orders", "plain").set(3)
    example.labels("returns", "plain").set(7)
    Gauge("stockhook_uninteresting", "Not read", registry=registry)

    async def broker() -> str | None:
        return "not connected"

    async def intake() -> str | None:
        return None

    port = free_port()
    async with serve_ops("127.0.0.1", port, {"broker": broker, "intake": intake}, registry):
        by_address, by_name = await read_processes(
            [f"http://127.0.0.1:{port}", f"http://localhost:{port}"], NAMES
        )

    for process in (by_address, by_name):
        assert isinstance(process, Process)
        assert not process.is_ready
        assert process.problems == {"broker": "not connected"}
        assert process.value("stockhook_example", family="orders", kind='a "quoted" kind') == 2
        assert process.total("stockhook_example", family="orders") == 5
        assert process.total("stockhook_example") == 12
        assert process.value("stockhook_uninteresting") is None
        assert process.total("stockhook_other") is None
    assert by_address.address == f"127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
            "it answers something else than a process of Stockhook",
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
            "it answers something else than a process of Stockhook",
        ),
        (b"\x00\x01", "it answers something else than a process of Stockhook"),
        (b"", "no answer within 2 s"),
    ],
)
async def test_what_is_no_process_of_ours_is_named(answer: bytes, reason: str) -> None:
    async with _answering(answer) as url:
        (process,) = await read_processes([url], NAMES)

    assert process == NoAnswer(url.removeprefix("http://"), reason)


async def test_what_does_not_listen_and_what_has_no_address_are_named() -> None:
    port = free_port()
    nothing, unknown = await read_processes([f"http://127.0.0.1:{port}", "http://ingest.invalid:9090"], NAMES)

    assert nothing == NoAnswer(f"127.0.0.1:{port}", "it cannot be connected to")
    assert unknown == NoAnswer("ingest.invalid:9090", "the name cannot be resolved")
