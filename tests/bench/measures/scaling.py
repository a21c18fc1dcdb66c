"""The rate of several consumers on one backlog, their results, and the resource that limits them."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from tests.bench import backlog
from tests.bench.backlog import ALL_FAMILIES, Backlog
from tests.bench.broker import LOOK_SECONDS, MESSAGES_TOGETHER, drained
from tests.bench.figures import FIRST_SHARE, LAST_SHARE, instant, rate
from tests.bench.lineup import OUR_LOG, STOCKHOOK
from tests.bench.plan import Bench
from tests.bench.processes import Failed, Running
from tests.bench.results import Ratio
from tests.bench.settled import accounted, nothing_left, published
from tests.bench.usage import CpuUsage
from tests.bench.world import READY_SECONDS, World
from tests.e2e.test_convergence import PROJECTIONS

COUNTS, QUICK_COUNTS = (1, 2, 4), (1, 2)

# With fewer, all are in flight before the measurement starts.
FEWEST = 8_000

WIDER_WINDOW_SECONDS = 1.0

DIGEST = """
SELECT count(*) || ' ' || coalesce(md5(string_agg(line, E'\\n' ORDER BY line)), '')
FROM (SELECT row::text AS line FROM (SELECT {columns} FROM {table}) AS row) AS lines
"""

# Counted since the last reset of the statistics.
CONFLICTS = """
SELECT deadlocks, xact_rollback AS "rolled back"
FROM pg_stat_database
WHERE datname = current_database()
"""


@dataclass(frozen=True, slots=True)
class Consumers:
    count: int

    @property
    def name(self) -> str:
        return "1 consumer" if self.count == 1 else f"{self.count} consumers"


async def scaling(bench: Bench) -> None:
    parts = await backlog.make(bench.world, ("inventory",), max(bench.options.events, FEWEST))
    await _scale(bench, "one family", parts)
    mixed_count = max(bench.options.events // 2, FEWEST)
    mixed = await backlog.make(bench.world, ALL_FAMILIES, mixed_count, repeats=True)
    await _scale(bench, "all families", mixed)


async def _scale(bench: Bench, families: str, made: Backlog) -> None:
    measure = f"scaling, {families}"
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

        await _warm_up(world, consumers, made, running[0])
        async with _held_back(world):
            await world.line.publish(made.wire[_warm(made) :])
            await _all_there(world, made.queues, look)
        seen = await world.line.watch(made.queues, lambda waiting: waiting == 0, look)
        # A feed that is behind publishes the rest afterwards.
        unpublished = await world.count("changes")
        await accounted(world, OUR_LOG, made.distinct, running[0])
        await published(world, running[0])
    await nothing_left(world)
    total = seen[0][1]
    samples = drained(seen, total)
    bench.results.add(measure, "events/s", consumers.name, rate(samples, total), Ratio.THIS_BY_FIRST)
    begin, end = instant(samples, FIRST_SHARE * total), instant(samples, LAST_SHARE * total)
    counts = {"batches of changes that were still to publish": unpublished}
    await _add_more(bench, measure, consumers, counts, usage.shares(begin, end))


def _warm(made: Backlog) -> int:
    """The number of events that are sent first, so that all consumers are busy."""
    return -(-len(made.wire) // 10)


async def _warm_up(world: World, consumers: Consumers, made: Backlog, first: Running) -> None:
    await _subscribed(world, made.queues, consumers.count)
    await world.line.publish(made.wire[: _warm(made)])
    messages = made.messages[: _warm(made) * MESSAGES_TOGETHER]
    await accounted(world, OUR_LOG, len({message.event_id for message in messages}), first)
    # Each process subscribes again after its first event; the first subscription may stay beside the new one.
    await asyncio.sleep(WIDER_WINDOW_SECONDS)
    await _subscribed(world, made.queues, consumers.count)


async def _subscribed(world: World, queues: list[str], count: int) -> None:
    """Return when each queue has at least this number of consumers."""
    async with asyncio.timeout(READY_SECONDS):
        while any([await world.line.consumers(queue) < count for queue in queues]):
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def _held_back(world: World) -> AsyncIterator[None]:
    """Lock the event log until all consumers are ready, so that they start together."""
    async with world.database.transaction():
        await world.database.execute("LOCK TABLE event_log IN ACCESS EXCLUSIVE MODE")
        yield
    await world.database.execute("SELECT pg_stat_reset()")


async def _all_there(world: World, queues: list[str], look: Callable[[], None]) -> None:
    """Return when the queues have stopped growing."""
    latest: deque[int] = deque(maxlen=6)

    def is_over(waiting: int) -> bool:
        latest.append(waiting)
        return len(latest) == latest.maxlen and len(set(latest)) == 1

    await world.line.watch(queues, is_over, look)


async def _add_more(
    bench: Bench, measure: str, consumers: Consumers, counts: dict[str, int], shares: dict[str, float]
) -> None:
    """Record conflicts and CPU usage, which explain the rate."""
    counts = {
        **counts,
        "retried": await bench.world.retried(),
        **(await bench.world.database.fetchrow(CONFLICTS) or {}),
    }
    for name, count in counts.items():
        bench.results.add(f"{measure}, {name}", "times", consumers.name, count, Ratio.NONE)
    for name, share in shares.items():
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
    """A digest of each projected table that is independent of the order of writes."""
    return {
        table: await world.database.fetchval(DIGEST.format(table=table, columns=columns))
        for table, columns in PROJECTIONS.items()
    }
