"""Keeps watch over a channel, because a connection can be dead without knowing it."""

import asyncio
from collections.abc import Awaitable, Callable

from worker.channel import Channel


async def keep_watch(
    channel: Channel, ending: asyncio.Event, seconds: float, is_well: Callable[[float], Awaitable[bool]]
) -> None:
    """Return when the channel is closed, `ending` is set, or all is not well.

    It is asked every so many seconds whether it is, and given as many to answer.
    """
    ends = [asyncio.ensure_future(channel.wait_closed()), asyncio.ensure_future(ending.wait())]
    try:
        while True:
            done, _ = await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if done or not await is_well(seconds):
                return
    finally:
        for end in ends:
            end.cancel()
