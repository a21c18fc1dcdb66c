"""The cost of an event that arrives out of order, by the number of logged events of its part."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from time import monotonic

import orjson

from schemas.registry import Provider
from tests.bench import backlog
from tests.bench.backlog import SEED
from tests.bench.broker import Stored, chunks
from tests.bench.lineup import STOCKHOOK
from tests.bench.measures.preload import HOT_PART, HOT_STATUSES, HotPart, copied, make_templates
from tests.bench.plan import Bench
from tests.bench.processes import Running
from tests.bench.results import Ratio
from tests.bench.settled import published
from tests.bench.world import World
from worker.simulator.lifecycle import GeneratedEvent, new_id

FAMILY = "inventory"
SIZES = (HotPart(100), HotPart(100_000))
QUICK_SIZES = (HotPart(100), HotPart(1_000))

# One event after the other, so that each costs a batch of its own. A slow consumer needs no more than
# MOST_SECONDS and one event; an event that is not applied within EVENT_SECONDS ends the measurement.
EVENTS, QUICK_EVENTS, WARM_UP = 200, 40, 2
MOST_SECONDS = 20.0
EVENT_SECONDS = 45.0
LOOK_SECONDS = 0.002

RATE = "part with many events, late ones one after the other"
COST = "part with many events, CPU per late event"

IS_APPLIED = "SELECT EXISTS (SELECT FROM event_ids WHERE event_id = $1::uuid)"


async def hot(bench: Bench) -> None:
    sizes = QUICK_SIZES if bench.options.is_quick else SIZES
    await make_templates(bench, "hot: filling", sizes, FAMILY)
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


async def _apply(world: World, messages: Sequence[Stored]) -> tuple[float, float]:
    """Events per second, and CPU seconds per event of consumer and Postgres.

    If an event takes too long, the rate is that of the events before it, and the cost a lower bound.
    """
    async with world.running(STOCKHOOK, (FAMILY,)) as running:
        for message in messages[:WARM_UP]:
            await _is_applied(world, message, running)
        await published(world, running)
        cost, began, done = await world.cpu_cost(running), monotonic(), 0
        for message in messages[WARM_UP:]:
            if not await _is_applied(world, message, running):
                break
            done += 1
            if monotonic() - began > MOST_SECONDS:
                break
        seconds = monotonic() - began
        cpu = sum(cost.seconds().values())
    await world.line.purge(world.queues)
    return done / seconds, cpu / max(done, 1)


async def _is_applied(world: World, message: Stored, running: Running) -> bool:
    """Publish an event, and wait until it is applied.

    Raises:
        Failed: The consumer has ended.
    """
    await world.line.publish(chunks([message], world.line.channel.number))
    end = monotonic() + EVENT_SECONDS
    while not await world.database.fetchval(IS_APPLIED, message.event_id):
        running.check()
        if monotonic() > end:
            return False
        await asyncio.sleep(LOOK_SECONDS)
    return True
