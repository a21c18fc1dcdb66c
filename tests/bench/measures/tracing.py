"""What traces cost the ingest and a drain: without them, with 1 % of the events recorded, and with all."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from tests.bench import backlog
from tests.bench.lineup import INGEST, TRACED, UNTRACED, Contestant
from tests.bench.measures.drain import drain
from tests.bench.measures.ingest import FAMILIES, accepted_per_second
from tests.bench.plan import Bench
from tests.bench.results import Ratio

MEASURE = "drain with traces"
INGEST_MEASURE = "ingest with traces"


async def tracing(bench: Bench) -> None:
    async with collector() as url:
        exporting = {"OTEL_EXPORTER_OTLP_ENDPOINT": url}
        contestants = [one if one is UNTRACED else one.with_settings(exporting) for one in TRACED]
        await _ingest(bench, contestants)
        await _drain(bench, contestants)


async def _ingest(bench: Bench, contestants: Sequence[Contestant]) -> None:
    count = bench.options.events // 2
    requests = backlog.requests(bench.world, backlog.events_of(FAMILIES), count)
    for contestant in bench.turns(INGEST_MEASURE, [_ingest_of(one) for one in contestants]):
        await bench.world.empty()
        value = await accepted_per_second(bench, contestant, requests, INGEST_MEASURE, Ratio.THIS_BY_FIRST)
        bench.results.add(INGEST_MEASURE, "events/s", contestant.name, value, Ratio.THIS_BY_FIRST)


async def _drain(bench: Bench, contestants: Sequence[Contestant]) -> None:
    """Each contestant drains a backlog that an ingest with the same settings published."""
    count = bench.options.events // 2
    made = {
        one.name: await backlog.make(bench.world, FAMILIES, count, ingest=_ingest_of(one))
        for one in contestants
    }
    for contestant in bench.turns(MEASURE, contestants):
        value = await drain(bench.world, contestant, made[contestant.name])
        bench.results.add(MEASURE, "events/s", contestant.name, value.rate, Ratio.THIS_BY_FIRST)


def _ingest_of(contestant: Contestant) -> Contestant:
    return replace(INGEST, name=contestant.name, environment=contestant.environment)


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
