"""Many deadlines with one timer of the event loop: a timer for each would cost more than the guarded work."""

import asyncio
from collections.abc import Callable, Hashable
from typing import NamedTuple

# If hundreds expire at once, other work waits only for this many; the others follow this many seconds later.
MOST_AT_ONCE = 16
NEXT_SECONDS = 0.005


class _Watched(NamedTuple):
    until: float
    expire: Callable[[], None]


class TimeoutGroup:
    """Each deadline is noticed at most `check_every` seconds late, or later if hundreds expire at once."""

    def __init__(self, check_every: float) -> None:
        self._check_every = check_every
        self._watched: dict[Hashable, _Watched] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, name: Hashable, seconds: float, expire: Callable[[], None]) -> None:
        """Call `expire` after so many seconds, unless `name` is forgotten before."""
        loop = asyncio.get_running_loop()
        self._watched[name] = _Watched(loop.time() + seconds, expire)
        if self._timer is None:
            self._timer = loop.call_later(self._check_every, self._check, loop)

    def postpone(self, name: Hashable, seconds: float) -> None:
        """Set its deadline to so many seconds from now, if it is watched."""
        watched = self._watched.get(name)
        if watched is not None:
            until = asyncio.get_running_loop().time() + seconds
            self._watched[name] = watched._replace(until=until)

    def forget(self, name: Hashable) -> None:
        """Stop watching a name, if it is watched."""
        self._watched.pop(name, None)

    def expire_now(self, name: Hashable) -> None:
        """Let its deadline pass now, if it is watched."""
        watched = self._watched.pop(name, None)
        if watched is not None:
            watched.expire()

    def timeout(self, seconds: float) -> asyncio.Timeout:
        """A context that raises TimeoutError after these seconds. Enter it at once; then `forget` it."""
        timeout = asyncio.timeout(None)
        self.watch(timeout, seconds, lambda: timeout.reschedule(0))
        return timeout

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        due = [name for name, watched in self._watched.items() if watched.until < now]
        # Before any expires: an exception then ends this check, and not all that follow.
        pause = self._check_every if len(due) <= MOST_AT_ONCE else NEXT_SECONDS
        self._timer = loop.call_later(pause, self._check, loop) if self._watched else None
        for name in due[:MOST_AT_ONCE]:
            self.expire_now(name)
