"""Memory of an idle process and of one under full load."""

import asyncio

from tests.bench import backlog
from tests.bench.backlog import ALL_FAMILIES, Backlog
from tests.bench.lineup import FASTAPI, FASTSTREAM, INGEST, STOCKHOOK, Contestant
from tests.bench.load import Prepared, play_at_once
from tests.bench.plan import Bench
from tests.bench.processes import Running, resident_bytes
from tests.bench.settled import accounted
from tests.bench.usage import LOOK_SECONDS, PeakMemory
from tests.bench.world import OVOKO_SECRET, free_port

REST_SECONDS, QUICK_REST_SECONDS = 3.0, 1.0
MEBIBYTE = 1 << 20


async def memory(bench: Bench) -> None:
    count = bench.options.events // 4
    requests = backlog.requests(bench.world, backlog.events_of(("inventory",)), count)
    for contestant in bench.turns("memory of the ingest", (INGEST, FASTAPI)):
        await bench.world.empty()
        await _ingest(bench, contestant, requests)
    made = await backlog.make(bench.world, ALL_FAMILIES, count)
    for contestant in bench.turns("memory of the consumer", (STOCKHOOK, FASTSTREAM)):
        await bench.world.empty()
        await _consumer(bench, contestant, made)


async def _ingest(bench: Bench, contestant: Contestant, requests: list[Prepared]) -> None:
    port = free_port()
    async with bench.world.running(contestant, port=port, secret=OVOKO_SECRET) as running:
        await _rest(bench, "ingest", running)
        peak = PeakMemory(lambda: running.pids)
        watching = asyncio.create_task(_watch(peak))
        await play_at_once(port, requests)
        watching.cancel()
        _add(bench, "memory of the ingest, 64 connections", running, peak.bytes)


async def _consumer(bench: Bench, contestant: Contestant, made: Backlog) -> None:
    """A process with all families, to which the broker delivers faster than it can process."""
    world = bench.world
    async with world.running(contestant, ALL_FAMILIES) as running:
        await _rest(bench, "consumer", running)
        peak = PeakMemory(lambda: running.pids)
        watching = asyncio.create_task(_watch(peak))
        await world.line.publish(made.wire)
        await world.line.watch(made.queues, lambda waiting: waiting == 0, running.check)
        await accounted(world, contestant.log or "", made.distinct, running)
        watching.cancel()
        _add(bench, "memory of the consumer, full window", running, peak.bytes)


async def _rest(bench: Bench, what: str, running: Running) -> None:
    await asyncio.sleep(QUICK_REST_SECONDS if bench.options.is_quick else REST_SECONDS)
    running.check()
    _add(bench, f"memory of the {what}, at rest", running, resident_bytes(running.pids))


async def _watch(peak: PeakMemory) -> None:
    while True:
        peak.look()
        await asyncio.sleep(LOOK_SECONDS)


def _add(bench: Bench, measure: str, running: Running, size: int) -> None:
    bench.results.add(measure, "MiB", running.name, size / MEBIBYTE)
