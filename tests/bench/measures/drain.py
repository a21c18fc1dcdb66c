"""How fast one consumer process drains a backlog."""

import asyncio

from tests.bench import backlog
from tests.bench.backlog import ALL_FAMILIES, Backlog
from tests.bench.broker import drained
from tests.bench.figures import rate
from tests.bench.lineup import CONSUMERS, Contestant
from tests.bench.plan import Bench
from tests.bench.processes import Running
from tests.bench.settled import accounted, nothing_left
from tests.bench.world import World

# For who writes nothing down: in which it acks what was delivered last.
ACK_SECONDS = 1.0


async def drain_parts(bench: Bench) -> None:
    made = await backlog.make(bench.world, ("inventory",), bench.options.events)
    await _in_turns(bench, "drain parts", made)


async def drain_buyback(bench: Bench) -> None:
    made = await backlog.make(bench.world, ("buybacks",), bench.options.events // 4)
    await _in_turns(bench, "drain buyback", made)


async def drain_mixed(bench: Bench) -> None:
    """All families, a tenth of the events twice."""
    made = await backlog.make(bench.world, ALL_FAMILIES, bench.options.events // 2, repeats=True)
    await _in_turns(bench, "drain mixed", made)


async def _in_turns(bench: Bench, measure: str, made: Backlog) -> None:
    for turn in bench.turns(measure, CONSUMERS):
        value = await drain(bench.world, turn.contestant, made)
        bench.results.add(measure, "events/s", turn.contestant.name, value)


async def drain(world: World, contestant: Contestant, made: Backlog) -> float:
    """Events a second, seen from outside by how many messages wait.

    Raises:
        Failed: Not all of them were handled.
        Stuck
    """
    await world.empty()
    await backlog.lay(world, made)
    async with world.running(contestant, made.families) as running:
        seen = await world.line.watch(made.queues, lambda waiting: waiting == 0, running.check)
        await _handled(world, contestant, made, running)
    await nothing_left(world)
    return rate(drained(seen, len(made)), len(made))


async def _handled(world: World, contestant: Contestant, made: Backlog, running: Running) -> None:
    if contestant.log is None:
        await asyncio.sleep(ACK_SECONDS)
    else:
        await accounted(world, contestant.log, made.distinct, running)
