"""Many deadlines, watched by one timer: one of the event loop's for each takes longer than what it guards."""

import asyncio
from collections.abc import Callable, Hashable
from typing import NamedTuple

# Of hundreds that are due at once, other work waits only for so many; the next ones follow soon.
MOST_AT_ONCE = 16
NEXT_SECONDS = 0.005


class _Watched(NamedTuple):
    until: float
    expire: Callable[[], None]


class TimeoutGroup:
    """Each is noticed `look_every` seconds late at most, or later where hundreds are."""

    def __init__(self, look_every: float) -> None:
        self._look_every = look_every
        self._watched: dict[Hashable, _Watched] = {}
        self._looking: asyncio.TimerHandle | None = None

    def watch(self, name: Hashable, seconds: float, expire: Callable[[], None]) -> None:
        """Call `expire` after so many seconds, unless `name` is forgotten before."""
        loop = asyncio.get_running_loop()
        self._watched[name] = _Watched(loop.time() + seconds, expire)
        if self._looking is None:
            self._looking = loop.call_later(self._look_every, self._look, loop)

    def postpone(self, name: Hashable, seconds: float) -> None:
        """Have it expire so many seconds from now, if it is watched."""
        watched = self._watched.get(name)
        if watched is not None:
            until = asyncio.get_running_loop().time() + seconds
            self._watched[name] = watched._replace(until=until)

    def forget(self, name: Hashable) -> None:
        """It was met; a name that is not watched is nothing."""
        self._watched.pop(name, None)

    def timeout(self, seconds: float) -> asyncio.Timeout:
        """A context, to be entered at once and to be forgotten, that raises TimeoutError when it is late."""
        timeout = asyncio.timeout(None)
        self.watch(timeout, seconds, lambda: timeout.reschedule(0))
        return timeout

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        due = [name for name, watched in self._watched.items() if watched.until < now]
        for name in due[:MOST_AT_ONCE]:
            watched = self._watched.pop(name, None)
            if watched is not None:
                watched.expire()
        pause = self._look_every if len(due) <= MOST_AT_ONCE else NEXT_SECONDS
        self._looking = loop.call_later(pause, self._look, loop) if self._watched else None
