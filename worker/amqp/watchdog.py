"""Keeps watch over a channel, because a connection can be dead without knowing it."""

import asyncio
from collections.abc import Awaitable, Callable

from worker.amqp.channel import Channel

# What a consumer holds for longer than the broker's consumer timeout (30 minutes by default) is taken
# from it, and counts towards the delivery limit: in lasting trouble it is given back long before that.
LONGEST_HOLD_SECONDS = 600.0

# While the broker confirms no copy, deliveries cannot be requeued either. Below the shortest consumer timeout
# that docs/reference/versions.md allows, 20 minutes.
LONGEST_UNCONFIRMED_SECONDS = 1080.0

# How long the broker's answer whether a subscription is there may take.
WATCHDOG_SECONDS = 5.0

# The pause between two questions, as a part of the time for an answer.
PAUSE_FRACTION = 1 / 3


async def watch_channel(
    channel: Channel, ending: asyncio.Event, within: float, is_well: Callable[[float], Awaitable[bool]]
) -> None:
    """Return when the channel is closed, `ending` is set, or all is not well.

    That is asked again and again; each answer may take `within` seconds.
    """
    ends = [asyncio.ensure_future(channel.wait_closed()), asyncio.ensure_future(ending.wait())]
    try:
        while True:
            done, _ = await asyncio.wait(
                ends, timeout=within * PAUSE_FRACTION, return_when=asyncio.FIRST_COMPLETED
            )
            if done or not await is_well(within):
                return
    finally:
        for end in ends:
            end.cancel()
