"""Work that a process repeats until its shutdown."""

import asyncio

import pytest

from worker.observability.backoff import repeat_until_stopping


class Work:
    """Fails at the first turn, and requests shutdown during the third."""

    def __init__(self, stopping: asyncio.Event) -> None:
        self.turns = 0
        self.stopping = stopping

    async def __call__(self) -> None:
        self.turns += 1
        if self.turns == 1:
            raise ValueError
        if self.turns == 3:
            self.stopping.set()


async def test_work_is_repeated_after_a_failure_until_shutdown() -> None:
    stopping = asyncio.Event()
    work = Work(stopping)
    failures: list[type[Exception]] = []

    await repeat_until_stopping(work, 0, stopping, lambda error: failures.append(type(error)))

    assert (work.turns, failures) == (3, [ValueError])


async def test_no_work_starts_after_shutdown() -> None:
    stopping = asyncio.Event()
    stopping.set()
    work = Work(stopping)

    await repeat_until_stopping(work, 0, stopping, lambda _: None)

    assert work.turns == 0


async def test_shutdown_ends_the_pause() -> None:
    stopping = asyncio.Event()
    began = asyncio.Event()

    async def work() -> None:
        began.set()

    repeating = asyncio.create_task(repeat_until_stopping(work, 3600, stopping, lambda _: None))
    await began.wait()
    stopping.set()

    await repeating


async def test_a_cancellation_is_not_a_failure() -> None:
    began = asyncio.Event()

    async def work() -> None:
        began.set()
        await asyncio.Event().wait()

    def fail(_: Exception) -> None:
        raise AssertionError

    repeating = asyncio.create_task(repeat_until_stopping(work, 0, asyncio.Event(), fail))
    await began.wait()
    repeating.cancel()

    with pytest.raises(asyncio.CancelledError):
        await repeating
