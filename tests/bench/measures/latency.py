"""The time from the answer to a webhook until the commit of its effect, at steady rates."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import islice

import orjson

from schemas.ovoko import unwrapped
from schemas.registry import Provider
from tests.bench.backlog import SEED, events_of
from tests.bench.figures import percentile
from tests.bench.lineup import FASTAPI, FASTSTREAM, INGEST, STOCKHOOK, Contestant
from tests.bench.load import Prepared, play_at_rate, prepared
from tests.bench.plan import Bench
from tests.bench.processes import Running
from tests.bench.results import Ratio
from tests.bench.settled import accounted, nothing_left, published
from tests.bench.world import OVOKO_SECRET, World, free_port
from worker.simulator.webhook import Credentials

FAMILIES = ("inventory",)
RATES = (100, 300, 1000)
QUICK_RATES = (300,)
SECONDS, QUICK_SECONDS = 20, 2

# Sent first, so that connections, caches and prepared statements exist.
WARM_UP = 200

COMMITTED = """
SELECT event_id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8
FROM {table}
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """An ingest and a consumer."""

    ingest: Contestant
    consumer: Contestant

    @property
    def name(self) -> str:
        return self.consumer.name


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds until the commit, and CPU seconds per event of each group of processes."""

    from_answer: list[float]
    from_request: list[float]
    cpu: dict[str, float]


OURS = Pair(INGEST, STOCKHOOK)
THEIRS = Pair(FASTAPI, FASTSTREAM)


async def latency(bench: Bench) -> None:
    quick = bench.options.is_quick
    seconds = QUICK_SECONDS if quick else SECONDS
    for rate in QUICK_RATES if quick else RATES:
        requests = with_ids(bench.world, WARM_UP + rate * seconds)
        measure = f"latency at {rate} events/s"
        for pair in bench.turns(measure, (OURS, THEIRS)):
            await bench.world.empty()
            taken = await latencies(bench.world, pair, requests, rate)
            add(bench, measure, pair.name, taken.from_answer)
            add(bench, f"{measure}, from the request", pair.name, taken.from_request)
            cost = f"CPU per event at {rate} events/s"
            bench.results.add(cost, "ms", pair.name, 1000 * sum(taken.cpu.values()))
            for group, cpu in taken.cpu.items():
                bench.results.add(f"{cost}, {group}", "ms", pair.name, 1000 * cpu)


def add(
    bench: Bench,
    measure: str,
    name: str,
    seconds: list[float],
    ratio: Ratio = Ratio.PRODUCT_BY_THIS,
) -> None:
    for label, share in (("p50", 0.5), ("p99", 0.99)):
        bench.results.add(f"{measure}, {label}", "ms", name, percentile(seconds, share) * 1000, ratio)


def with_ids(world: World, count: int, seed: int = SEED) -> list[Prepared]:
    """Requests whose keys are the ids of their events."""
    credentials = Credentials.of(world.settings, (Provider.OVOKO,))
    return [
        prepared(
            credentials.webhook(event.provider, event.event_type, event.body),
            unwrapped(orjson.loads(event.body))["event_id"],
        )
        for event in islice(events_of(FAMILIES, seed), count)
    ]


async def latencies(world: World, pair: Pair, requests: list[Prepared], rate: float) -> Latencies:
    """The latency of each event, by this machine's clock.

    It is negative if the commit precedes the arrival of the answer. A late answer makes the latency from the
    answer look low, but not that from the request.

    Raises:
        Failed: An event was answered 200 and is not applied.
        NotAccepted
    """
    port = free_port()
    log = pair.consumer.log or ""
    before = await world.count(log)
    async with AsyncExitStack() as stack:
        consumer = await stack.enter_async_context(world.running(pair.consumer, FAMILIES))
        await stack.enter_async_context(world.running(pair.ingest, port=port, secret=OVOKO_SECRET))
        await play_at_rate(port, requests[:WARM_UP], rate)
        await accounted(world, log, before + WARM_UP, consumer)
        await _all_published(world, pair.consumer, consumer)
        cost = await world.cpu_cost(consumer)
        answers = await play_at_rate(port, requests[WARM_UP:], rate)
        await accounted(world, log, before + len(requests), consumer)
        await _all_published(world, pair.consumer, consumer)
        seconds = cost.seconds()
    await nothing_left(world)
    committed = {str(row[0]): row[1] for row in await world.database.fetch(COMMITTED.format(table=log))}
    return Latencies(
        [committed[event_id] - answered for event_id, answered in answers.arrived.items()],
        [committed[event_id] - sent for event_id, sent in answers.sent.items()],
        {group: used / len(answers.arrived) for group, used in seconds.items()},
    )


async def _all_published(world: World, contestant: Contestant, running: Running) -> None:
    """The change feed is part of the cost of an event."""
    if contestant.publishes_changes:
        await published(world, running)
