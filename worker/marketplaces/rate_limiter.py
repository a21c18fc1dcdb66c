"""A limit of calls per second."""

import asyncio
from time import monotonic


class RateLimiter:
    """Lets callers continue one by one, at even intervals. Unused time is not saved."""

    def __init__(self, per_second: float) -> None:
        self._interval = 1 / per_second
        self._next = 0.0

    async def wait(self) -> None:
        now = monotonic()
        turn = max(now, self._next)
        self._next = turn + self._interval
        await asyncio.sleep(turn - now)
