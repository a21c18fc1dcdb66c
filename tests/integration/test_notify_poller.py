"""Work that waits in a table, as the poller runs it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic

from tests.support.applied_events import database_of
from tests.support.stack import Stack, until
from worker.postgres.notify_poller import NotifyPoller

CHANNEL = "test_work"
NOTIFICATIONS = 50


@asynccontextmanager
async def polling(stack: Stack, work: Callable[[], Awaitable[bool]], interval: float) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    async with database_of(stack) as database:
        poller = NotifyPoller("test", CHANNEL, work, database, stopping, interval)
        running = asyncio.create_task(poller.run())
        try:
            yield
        finally:
            stopping.set()
            await running


async def test_notifications_within_an_interval_cause_one_run(stack: Stack) -> None:
    committed, interval = 0, 0.5
    done: list[int] = []

    async def work() -> bool:
        done.append(committed)
        return False

    began = monotonic()
    async with database_of(stack) as database, polling(stack, work, interval):
        for number in range(1, NOTIFICATIONS + 1):
            committed = number
            async with database.transaction() as connection:
                await connection.execute("SELECT pg_notify($1, '')", CHANNEL)

        async def all_are_done() -> bool:
            return done[-1:] == [NOTIFICATIONS]

        await until(all_are_done, "the last run sees all work")
        took = monotonic() - began

    assert len(done) <= 1 + took / interval


async def test_what_is_left_waits_for_no_interval(stack: Stack) -> None:
    left = 3

    async def work() -> bool:
        nonlocal left
        left -= 1
        return left > 0

    async def nothing_is_left() -> bool:
        return left == 0

    async with polling(stack, work, 3600):
        await until(nothing_is_left, "all work is done")
