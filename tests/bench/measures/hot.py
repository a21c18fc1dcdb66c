"""The cost of an event that arrives out of order, by the number of logged events of its part."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from time import monotonic

import orjson

from schemas.registry import Provider
from tests.bench import backlog
from tests.bench.backlog import SEED
from tests.bench.broker import Stored, chunks
from tests.bench.lineup import STOCKHOOK
from tests.bench.measures.preload import HOT_PART, HOT_STATUSES, HotPart, copied, make_template
from tests.bench.plan import Bench
from tests.bench.processes import Running
from tests.bench.results import Ratio
from tests.bench.settled import nothing_left, published
from tests.bench.world import World
from worker.simulator.lifecycle import GeneratedEvent, new_id

FAMILY = "inventory"
SIZES = (HotPart(100), HotPart(100_000))
QUICK_SIZES = (HotPart(100), HotPart(1_000))

# A group is published at once; the next one follows when all its events are applied. So a slow consumer
# needs no more than MOST_SECONDS and one group.
GROUP = 10
EVENTS, QUICK_EVENTS, WARM_UP = 400, 40, 10
MOST_SECONDS = 20.0
GROUP_SECONDS = 120.0
LOOK_SECONDS = 0.002

RATE = "part with many events, new ones arrive out of order"
COST = "part with many events, CPU per new event"

APPLIED = "SELECT count(*) FROM event_ids WHERE event_id = ANY($1::uuid[])"


async def hot(bench: Bench) -> None:
    sizes = QUICK_SIZES if bench.options.is_quick else SIZES
    for number, size in enumerate(sizes):
        bench.show.step("hot: filling", size.name, number, len(sizes))
        await make_template(bench.world, size, FAMILY)
    bench.show.done("hot: filling", len(sizes))
    count = WARM_UP + (QUICK_EVENTS if bench.options.is_quick else EVENTS)
    made = await backlog.make(bench.world, (FAMILY,), count, events=late_events())
    for size in bench.turns("hot", sizes):
        async with copied(bench.world, size) as world:
            await world.line.purge(world.queues)
            rate, cost = await _apply(world, made.messages)
            bench.results.add(RATE, "events/s", size.name, rate, Ratio.THIS_BY_FIRST)
            bench.results.add(COST, "ms", size.name, 1000 * cost, Ratio.THIS_BY_FIRST)


def late_events() -> Iterator[GeneratedEvent]:
    """Endless events of the part, at random instants of its logged past."""
    rng = Random(SEED)
    now = datetime.now(UTC).replace(microsecond=0)
    while True:
        at = now - timedelta(seconds=rng.randrange(30 * 86_400, 600 * 86_400))
        body = {
            "event_id": new_id(rng),
            "event_type": "part.status.changed",
            "timestamp": at.isoformat(),
            "event_data": {
                "part_id": HOT_PART,
                "status": rng.choice(HOT_STATUSES),
                "id_bridge": "SKU-1",
                "external_id": None,
            },
        }
        yield GeneratedEvent(Provider.OVOKO, "part.status.changed", at, orjson.dumps(body))


async def _apply(world: World, messages: tuple[Stored, ...]) -> tuple[float, float]:
    """Events and CPU seconds: events per second, and CPU seconds per event of consumer and Postgres."""
    async with world.running(STOCKHOOK, (FAMILY,)) as running:
        await _apply_group(world, messages[:WARM_UP], running)
        await published(world, running)
        cost, began, done = await world.cpu_cost(running), monotonic(), 0
        for first in range(WARM_UP, len(messages), GROUP):
            group = messages[first : first + GROUP]
            await _apply_group(world, group, running)
            done += len(group)
            if monotonic() - began > MOST_SECONDS:
                break
        seconds = monotonic() - began
        await published(world, running)
        cpu = sum(cost.seconds().values())
    await nothing_left(world)
    return done / seconds, cpu / done


async def _apply_group(world: World, group: tuple[Stored, ...], running: Running) -> None:
    """Return when the events are applied.

    Raises:
        Failed: The consumer has ended.
        TimeoutError
    """
    ids = [message.event_id for message in group]
    await world.line.publish(chunks(group, world.line.channel.number))
    async with asyncio.timeout(GROUP_SECONDS):
        while await world.database.fetchval(APPLIED, ids) < len(ids):
            running.check()
            await asyncio.sleep(LOOK_SECONDS)
