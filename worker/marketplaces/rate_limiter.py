"""So many calls a second, and no more."""

import asyncio
from time import monotonic


class RateLimiter:
    """Lets callers through one by one, evenly. Time that nobody used is not saved up."""

    def __init__(self, per_second: float) -> None:
        self._interval = 1 / per_second
        self._next = 0.0

    async def wait(self) -> None:
        now = monotonic()
        turn = max(now, self._next)
        self._next = turn + self._interval
        await asyncio.sleep(turn - now)
