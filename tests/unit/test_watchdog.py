"""The watch of a channel ends with the channel, when it is stopped, and after a failed check."""

import asyncio
from typing import Any

from worker.amqp.watchdog import watch_channel


class OpenChannel:
    """Replaces a channel: open until its event is set."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def wait_closed(self) -> None:
        await self.closed.wait()


async def watched(answers: list[bool], *, is_closed: bool = False, is_ending: bool = False) -> list[float]:
    """The timeout of each check in seconds, until the watch ended."""
    channel: Any = OpenChannel()
    ending = asyncio.Event()
    checks: list[float] = []

    async def is_well(within: float) -> bool:
        checks.append(within)
        if len(checks) == len(answers):
            if is_closed:
                channel.closed.set()
            if is_ending:
                ending.set()
        return answers[len(checks) - 1]

    await asyncio.wait_for(watch_channel(channel, ending, 0.001, is_well), 30)
    return checks


async def test_it_checks_until_the_channel_fails() -> None:
    assert await watched([True, True, False]) == [0.001] * 3


async def test_it_ends_with_the_channel() -> None:
    assert await watched([True, True], is_closed=True) == [0.001] * 2


async def test_it_ends_when_it_is_stopped() -> None:
    assert await watched([True, True], is_ending=True) == [0.001] * 2


async def test_it_leaves_nothing_waiting() -> None:
    await watched([False])
    await asyncio.sleep(0)

    assert asyncio.all_tasks() == {asyncio.current_task()}
