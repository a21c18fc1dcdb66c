"""Whether a subscription may consume."""

import asyncio

from worker.observability.backoff import ShutdownRequested


class Switch:
    """On at first. While it is off, the subscription has no session; `reason` says why."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._on = asyncio.Event()
        self._on.set()
        self._off = asyncio.Event()

    @property
    def is_on(self) -> bool:
        return self._on.is_set()

    def turn_on(self) -> None:
        self.reason = None
        self._off.clear()
        self._on.set()

    def turn_off(self, reason: str) -> None:
        self.reason = reason
        self._on.clear()
        self._off.set()

    async def until_off(self) -> None:
        await self._off.wait()

    async def until_on(self, stopping: asyncio.Event) -> None:
        """Raises: ShutdownRequested."""
        waits = [asyncio.create_task(event.wait()) for event in (self._on, stopping)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if stopping.is_set():
            raise ShutdownRequested
