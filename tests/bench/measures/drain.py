"""The rate at which one consumer process drains a backlog."""

import asyncio
from collections.abc import Sequence

from tests.bench import backlog
from tests.bench.backlog import ALL_FAMILIES, Backlog
from tests.bench.broker import drained
from tests.bench.figures import rate
from tests.bench.lineup import CONSUMERS, WITH_FEED, Contestant
from tests.bench.plan import Bench
from tests.bench.settled import accounted, nothing_left
from tests.bench.world import World

# A contestant without a table gets this time to ack its last deliveries.
ACK_SECONDS = 1.0


async def drain_parts(bench: Bench) -> None:
    made = await backlog.make(bench.world, ("inventory",), bench.options.events)
    await _in_turns(bench, "drain parts", made, (*CONSUMERS, WITH_FEED))


async def drain_buyback(bench: Bench) -> None:
    made = await backlog.make(bench.world, ("buybacks",), bench.options.events // 4)
    await _in_turns(bench, "drain buyback", made)


async def drain_mixed(bench: Bench) -> None:
    """Events of all families; a tenth of them are sent twice."""
    made = await backlog.make(bench.world, ALL_FAMILIES, bench.options.events // 2, repeats=True)
    await _in_turns(bench, "drain mixed", made)


async def _in_turns(
    bench: Bench, measure: str, made: Backlog, contestants: Sequence[Contestant] = CONSUMERS
) -> None:
    for contestant in bench.turns(measure, contestants):
        value = await drain(bench.world, contestant, made)
        bench.results.add(measure, "events/s", contestant.name, value)


async def drain(world: World, contestant: Contestant, made: Backlog) -> float:
    """Events per second, calculated from the number of waiting messages.

    Raises:
        Failed: Not all of them were handled.
        Stuck
    """
    await world.empty()
    return await drain_laid(world, contestant, made)


async def drain_laid(world: World, contestant: Contestant, made: Backlog, before: int = 0) -> float:
    """The same for a log that already has `before` rows."""
    await backlog.lay(world, made)
    async with world.running(contestant, made.families) as running:
        seen = await world.line.watch(made.queues, lambda waiting: waiting == 0, running.check)
        if contestant.log is None:
            await asyncio.sleep(ACK_SECONDS)
        else:
            await accounted(world, contestant.log, before + made.distinct, running)
    await nothing_left(world)
    return rate(drained(seen, len(made)), len(made))
