"""Check that every event was handled; a contestant that lost events is not compared."""

import asyncio
from time import monotonic

from tests.bench.processes import Failed, Running
from tests.bench.world import World

PATIENCE_SECONDS = 60.0


async def accounted(world: World, table: str, expected: int, running: Running) -> None:
    """Return when the table has a row for each event.

    Raises:
        Failed
    """
    end = monotonic() + PATIENCE_SECONDS
    while (counted := await world.count(table)) != expected:
        running.check()
        if counted > expected or monotonic() > end:
            raise Failed(f"{running.name}: {counted} rows for {expected} events\n{running.tail()}")
        await asyncio.sleep(0.1)


async def published(world: World, running: Running) -> None:
    """Return when the change feed has published all changes.

    Raises:
        Failed
    """
    end = monotonic() + PATIENCE_SECONDS
    while waiting := await world.count("changes"):
        running.check()
        if monotonic() > end:
            raise Failed(f"{running.name}: {waiting} batches of changes are not published\n{running.tail()}")
        await asyncio.sleep(0.1)


async def nothing_left(world: World) -> None:
    """Check, after the consumer has stopped, that no unacked or retried event is in a queue.

    Raises:
        Failed
    """
    left = {queue: waiting for queue in world.queues if (waiting := await world.line.ready([queue]))}
    if left:
        raise Failed(f"not handled: {left}")
