"""The rate at which one consumer process drains a backlog."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from tests.bench import backlog
from tests.bench.backlog import ALL_FAMILIES, Backlog
from tests.bench.broker import drained
from tests.bench.figures import FIRST_SHARE, Sample, instant, rate
from tests.bench.lineup import CONSUMERS, WITHOUT_FEED, Contestant
from tests.bench.plan import Bench
from tests.bench.settled import accounted, nothing_left, published
from tests.bench.world import World

# A contestant without a table gets this time to ack its last deliveries.
ACK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Drained:
    """Events per second: of the queue, and until the last change is published.

    The feed of a consumer that is behind uses a tenth of the time, and publishes the rest afterwards.
    """

    rate: float
    rate_with_feed: float | None


async def drain_parts(bench: Bench) -> None:
    made = await backlog.make(bench.world, ("inventory",), bench.options.events)
    await _alternate(bench, "drain parts", made, (*CONSUMERS, WITHOUT_FEED))


async def drain_buyback(bench: Bench) -> None:
    made = await backlog.make(bench.world, ("buybacks",), bench.options.events // 4)
    await _alternate(bench, "drain buyback", made)


async def drain_mixed(bench: Bench) -> None:
    """Events of all families; a tenth of them are sent twice."""
    made = await backlog.make(bench.world, ALL_FAMILIES, bench.options.events // 2, repeats=True)
    await _alternate(bench, "drain mixed", made)


async def _alternate(
    bench: Bench, measure: str, made: Backlog, contestants: Sequence[Contestant] = CONSUMERS
) -> None:
    for contestant in bench.turns(measure, contestants):
        value = await drain(bench.world, contestant, made)
        bench.results.add(measure, "events/s", contestant.name, value.rate)
        if value.rate_with_feed is not None:
            name = f"{measure}, until the last change is published"
            bench.results.add(name, "events/s", contestant.name, value.rate_with_feed)


async def drain(world: World, contestant: Contestant, made: Backlog) -> Drained:
    """The rate by the number of waiting messages.

    Raises:
        Failed: Not all of them were handled.
        Stuck
    """
    await world.empty()
    return await drain_laid(world, contestant, made)


async def drain_laid(world: World, contestant: Contestant, made: Backlog, before: int = 0) -> Drained:
    """The same for a log that already has `before` rows."""
    await backlog.lay(world, made)
    end = None
    async with world.running(contestant, made.families) as running:
        seen = await world.line.watch(made.queues, lambda waiting: waiting == 0, running.check)
        if contestant.log is None:
            await asyncio.sleep(ACK_SECONDS)
        else:
            await accounted(world, contestant.log, before + made.distinct, running)
        if contestant.publishes_changes:
            await published(world, running)
            end = monotonic()
    await nothing_left(world)
    samples = drained(seen, len(made))
    return Drained(rate(samples, len(made)), None if end is None else _until(samples, len(made), end))


def _until(samples: Sequence[Sample], total: int, end: float) -> float:
    """Events per second from a tenth of the total to this instant."""
    return (1 - FIRST_SHARE) * total / (end - instant(samples, FIRST_SHARE * total))
