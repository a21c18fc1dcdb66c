"""Watches a channel: a connection can be dead without any sign of it."""

import asyncio
from collections.abc import Awaitable, Callable

from worker.amqp.channel import Channel

# The pause between two checks, as a fraction of the time that one may take.
PAUSE_FRACTION = 1 / 3


async def watch_channel(
    channel: Channel, ending: asyncio.Event, within: float, is_healthy: Callable[[float], Awaitable[bool]]
) -> None:
    """Return when the channel is closed, when `ending` is set, or when `is_healthy` returns False.

    `is_healthy` is called again and again; each call may take `within` seconds.
    """
    ends = [asyncio.ensure_future(channel.wait_closed()), asyncio.ensure_future(ending.wait())]
    try:
        while True:
            done, _ = await asyncio.wait(
                ends, timeout=within * PAUSE_FRACTION, return_when=asyncio.FIRST_COMPLETED
            )
            if done or not await is_healthy(within):
                return
    finally:
        for end in ends:
            end.cancel()
