"""How fast one consumer process drains a backlog."""

import asyncio
from collections.abc import Sequence

from tests.bench import backlog
from tests.bench.backlog import ALL_FAMILIES, Backlog
from tests.bench.broker import drained
from tests.bench.figures import rate
from tests.bench.lineup import CONSUMERS, TELLING, Contestant
from tests.bench.plan import Bench
from tests.bench.settled import accounted, nothing_left
from tests.bench.world import World

# For who writes nothing down: in which it acks what was delivered last.
ACK_SECONDS = 1.0


async def drain_parts(bench: Bench) -> None:
    made = await backlog.make(bench.world, ("inventory",), bench.options.events)
    await _in_turns(bench, "drain parts", made, (*CONSUMERS, TELLING))


async def drain_buyback(bench: Bench) -> None:
    made = await backlog.make(bench.world, ("buybacks",), bench.options.events // 4)
    await _in_turns(bench, "drain buyback", made)


async def drain_mixed(bench: Bench) -> None:
    """All families, a tenth of the events twice."""
    made = await backlog.make(bench.world, ALL_FAMILIES, bench.options.events // 2, repeats=True)
    await _in_turns(bench, "drain mixed", made)


async def _in_turns(
    bench: Bench, measure: str, made: Backlog, contestants: Sequence[Contestant] = CONSUMERS
) -> None:
    for contestant in bench.turns(measure, contestants):
        value = await drain(bench.world, contestant, made)
        bench.results.add(measure, "events/s", contestant.name, value)


async def drain(world: World, contestant: Contestant, made: Backlog) -> float:
    """Events a second, seen from outside by how many messages wait.

    Raises:
        Failed: Not all of them were handled.
        Stuck
    """
    await world.empty()
    return await drain_laid(world, contestant, made)


async def drain_laid(world: World, contestant: Contestant, made: Backlog, before: int = 0) -> float:
    """The same, where the log has so many rows before."""
    await backlog.lay(world, made)
    async with world.running(contestant, made.families) as running:
        seen = await world.line.watch(made.queues, lambda waiting: waiting == 0, running.check)
        if contestant.log is None:
            await asyncio.sleep(ACK_SECONDS)
        else:
            await accounted(world, contestant.log, before + made.distinct, running)
    await nothing_left(world)
    return rate(drained(seen, len(made)), len(made))
