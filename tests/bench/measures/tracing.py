"""What traces cost: the rate of a drain without them, with 1 % of the events recorded, and with all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from tests.bench import backlog
from tests.bench.lineup import INGEST, TRACED, UNTRACED
from tests.bench.measures.drain import drain
from tests.bench.plan import Bench
from tests.bench.results import Ratio

MEASURE = "drain with traces"


async def tracing(bench: Bench) -> None:
    """Each contestant drains a backlog that an ingest with the same settings published."""
    async with collector() as url:
        made = {}
        for contestant in TRACED:
            is_traced = contestant is not UNTRACED
            endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": url} if is_traced else {}
            traced = contestant.with_settings(endpoint)
            ingest = replace(INGEST, environment=traced.environment)
            published = await backlog.make(
                bench.world, ("inventory",), bench.options.events // 2, ingest=ingest
            )
            made[contestant.name] = traced, published
        for contestant in bench.turns(MEASURE, TRACED):
            traced, published = made[contestant.name]
            value = await drain(bench.world, traced, published)
            bench.results.add(MEASURE, "events/s", contestant.name, value.rate, Ratio.THIS_BY_FIRST)


@asynccontextmanager
async def collector() -> AsyncIterator[str]:
    """Accepts spans and drops them: what is measured is the cost for the product."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
                sizes = [int(line.partition(b":")[2]) for line in head if line.startswith(b"content-length:")]
                await reader.readexactly(sizes[0])
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
