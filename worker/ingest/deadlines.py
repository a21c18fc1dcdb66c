"""Deadlines of many requests at once, watched by one timer."""

import asyncio

# So late a deadline may be noticed, in seconds.
LOOK_SECONDS = 0.25


class Deadlines:
    """A timer of the event loop for each request takes longer than reading an ordinary body."""

    def __init__(self) -> None:
        self._until: dict[asyncio.Timeout, float] = {}
        self._looking: asyncio.TimerHandle | None = None

    def watch(self, seconds: float) -> asyncio.Timeout:
        """A context, to be entered at once, that raises TimeoutError after so many seconds."""
        loop = asyncio.get_running_loop()
        timeout = asyncio.timeout(None)
        self._until[timeout] = loop.time() + seconds
        if self._looking is None:
            self._looking = loop.call_later(LOOK_SECONDS, self._look, loop)
        return timeout

    def forget(self, timeout: asyncio.Timeout) -> None:
        """It was left in time, or not: to be called in any case."""
        self._until.pop(timeout, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for timeout in [timeout for timeout, until in self._until.items() if until < now]:
            del self._until[timeout]
            timeout.reschedule(now)
        self._looking = loop.call_later(LOOK_SECONDS, self._look, loop) if self._until else None
