"""Whether more consumers drain a backlog faster, to the same end, and what is at its limit then."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from tests.bench import backlog
from tests.bench.backlog import ALL_FAMILIES, Backlog
from tests.bench.broker import drained
from tests.bench.figures import FIRST_SHARE, LAST_SHARE, instant, rate
from tests.bench.lineup import OUR_LOG, STOCKHOOK
from tests.bench.plan import Bench
from tests.bench.processes import Failed, Running
from tests.bench.results import Ratio
from tests.bench.settled import accounted, nothing_left
from tests.bench.usage import CpuUsage
from tests.bench.world import World
from tests.e2e.test_convergence import PROJECTIONS

COUNTS, QUICK_COUNTS = (1, 2, 4), (1, 2)

DIGEST = """
SELECT count(*) || ' ' || coalesce(md5(string_agg(line, E'\\n' ORDER BY line)), '')
FROM (SELECT row::text AS line FROM (SELECT {columns} FROM {table}) AS row) AS lines
"""


@dataclass(frozen=True, slots=True)
class Consumers:
    count: int

    @property
    def name(self) -> str:
        return "1 consumer" if self.count == 1 else f"{self.count} consumers"


async def scaling(bench: Bench) -> None:
    parts = await backlog.make(bench.world, ("inventory",), bench.options.events)
    await _scale(bench, "one family", parts)
    mixed = await backlog.make(bench.world, ALL_FAMILIES, bench.options.events // 2, repeats=True)
    await _scale(bench, "all families", mixed)


async def _scale(bench: Bench, families: str, made: Backlog) -> None:
    measure = f"drain of {families} by several"
    expected: dict[str, str] | None = None
    counts = QUICK_COUNTS if bench.options.is_quick else COUNTS
    for consumers in bench.turns(measure, [Consumers(count) for count in counts]):
        await _drain(bench, measure, consumers, made)
        projection = await digests(bench.world)
        expected = expected or projection
        if projection != expected:
            differing = [table for table in PROJECTIONS if projection[table] != expected[table]]
            raise Failed(f"{consumers.name} came to other rows than one did: {', '.join(differing)}")


async def _drain(bench: Bench, measure: str, consumers: Consumers, made: Backlog) -> None:
    world = bench.world
    await world.empty()
    await backlog.lay(world, made)
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(world.running(STOCKHOOK, made.families))
            for _ in range(consumers.count)
        ]
        usage = _usage(world, running)

        def look() -> None:
            usage.look()
            for each in running:
                each.check()

        seen = await world.line.watch(made.queues, lambda waiting: waiting == 0, look)
        await accounted(world, OUR_LOG, made.distinct, running[0])
    await nothing_left(world)
    total, samples = len(made), drained(seen, len(made))
    speed, laddered = rate(samples, total), await world.laddered()
    bench.results.add(measure, "events/s", consumers.name, speed, Ratio.THIS_BY_FIRST)
    bench.results.add(f"{measure}, sent to the ladder", "events", consumers.name, laddered, Ratio.NONE)
    begin, end = instant(samples, FIRST_SHARE * total), instant(samples, LAST_SHARE * total)
    for name, share in usage.shares(begin, end).items():
        bench.results.add(f"{measure}, CPU of {name}", "cores", consumers.name, share, Ratio.NONE)


def _usage(world: World, running: list[Running]) -> CpuUsage:
    return CpuUsage(
        {
            "RabbitMQ": world.broker_pids,
            "Postgres": world.postgres_pids,
            "the consumers": lambda: [pid for each in running for pid in each.pids],
        }
    )


async def digests(world: World) -> dict[str, str]:
    """Of each projected table, what is the same whoever wrote it in whichever order."""
    return {
        table: await world.database.fetchval(DIGEST.format(table=table, columns=columns))
        for table, columns in PROJECTIONS.items()
    }
