"""One timer for many deadlines."""

import asyncio
import time

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


async def test_after_an_exception_the_other_deadlines_still_pass() -> None:
    deadlines = TimeoutGroup(LOOK_SECONDS)
    passed = asyncio.Event()
    reported = []

    def fail() -> None:
        raise RuntimeError

    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    deadlines.watch("failing", 0, fail)
    deadlines.watch("other", 0.01, passed.set)

    async with asyncio.timeout(30):
        await passed.wait()
    assert len(reported) == 1


async def test_a_deadline_that_was_made_to_pass_does_not_pass_again() -> None:
    """Its check may run before the waiting task has noticed."""
    deadlines = TimeoutGroup(0.0)
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    timeout = deadlines.timeout(0.0)

    async def until_late() -> None:
        async with timeout:
            deadlines.expire_now(timeout)
            asyncio.get_running_loop().call_soon(time.sleep, LOOK_SECONDS)
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await until_late()
    deadlines.expire_now(timeout)
    async with asyncio.timeout(30):
        assert await wait(deadlines, 0.01, 60) == "late"
    assert reported == []
