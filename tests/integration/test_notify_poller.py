"""Work that waits in a table, as the poller runs it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic

import pytest

from tests.support.applied_events import database_of
from tests.support.stack import Stack, until
from worker.postgres import notify_poller
from worker.postgres.notify_poller import NotifyPoller

CHANNEL = "test_work"
NOTIFICATIONS = 50


@asynccontextmanager
async def polling(
    stack: Stack,
    work: Callable[[], Awaitable[bool]],
    interval_seconds: float,
    should_throttle: Callable[[], bool] = lambda: False,
) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    async with database_of(stack) as database:
        poller = NotifyPoller("test", CHANNEL, work, database, stopping, interval_seconds, should_throttle)
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


async def test_a_throttled_poller_goes_on_when_the_reason_ends(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify_poller, "WAIT_SHARE", 1e9)
    runs: list[int] = []
    checks = 0

    async def work() -> bool:
        runs.append(checks)
        await asyncio.sleep(0.01)
        return True

    def should_throttle() -> bool:
        nonlocal checks
        checks += 1
        return checks <= 5

    async def goes_on() -> bool:
        return len(runs) > 1

    async with polling(stack, work, 0, should_throttle):
        await until(goes_on, "it runs again")

    assert runs[:2] == [0, 6]


async def test_a_throttled_poller_keeps_its_interval(stack: Stack) -> None:
    is_running = asyncio.Event()
    runs = 0

    async def work() -> bool:
        nonlocal runs
        runs += 1
        is_running.set()
        return False

    async with database_of(stack) as database, polling(stack, work, 3600, lambda: True):
        await asyncio.wait_for(is_running.wait(), 20)
        for _ in range(NOTIFICATIONS):
            async with database.transaction() as connection:
                await connection.execute("SELECT pg_notify($1, '')", CHANNEL)

    assert runs == 1
