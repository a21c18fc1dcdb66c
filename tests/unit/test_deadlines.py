"""One timer for many deadlines."""

import asyncio

import pytest

from worker.amqp.timeouts import TimeoutGroup

LOOK_SECONDS = 0.05


async def wait(deadlines: TimeoutGroup, seconds: float, work: float) -> str:
    timeout = deadlines.timeout(seconds)
    try:
        async with timeout:
            await asyncio.sleep(work)
    except TimeoutError:
        return "late"
    finally:
        deadlines.forget(timeout)
    return "done"


async def test_each_ends_by_its_own_deadline() -> None:
    deadlines = TimeoutGroup(LOOK_SECONDS)
    async with asyncio.timeout(30):
        outcomes = await asyncio.gather(
            wait(deadlines, 0.01, 60), wait(deadlines, 60, 0.01), wait(deadlines, 0.2, 60)
        )

    assert outcomes == ["late", "done", "late"]


async def test_it_looks_again_after_a_pause() -> None:
    deadlines = TimeoutGroup(LOOK_SECONDS)

    assert await wait(deadlines, 60, 0) == "done"
    await asyncio.sleep(2 * LOOK_SECONDS)
    async with asyncio.timeout(30):
        assert await wait(deadlines, 0.01, 60) == "late"


async def test_a_cancellation_from_outside_stays_one() -> None:
    deadlines = TimeoutGroup(LOOK_SECONDS)
    task = asyncio.create_task(wait(deadlines, 60, 60))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
