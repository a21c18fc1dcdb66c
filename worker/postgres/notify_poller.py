"""Runs work that waits in a table: when Postgres notifies, and at intervals."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

import structlog

from worker.observability.backoff import ShutdownRequested, retry_until_available, sleep_unless_stopping
from worker.observability.errors import safe_summary
from worker.postgres.failures import DatabaseUnavailable, blameless
from worker.postgres.pool import Database

log = structlog.get_logger(__name__)

# The pause of a throttled poller, as a multiple of the time that its last run took.
WAIT_SHARE = 9.0
THROTTLE_CHECK_SECONDS = 0.1

# For notifications that were lost with the connection.
POLL_SECONDS = 2.0
LISTENER_CHECK_SECONDS = 5.0


class _Waiting(Exception):
    """The work has to wait. The text says why."""


def _never() -> bool:
    return False


@dataclass(slots=True)
class NotifyPoller:
    """`work` does a part of the work and returns whether more is left; `channel` is the channel of NOTIFY.

    Two runs begin at least `interval_seconds` apart, unless more is left: so a run does the work of several
    notifications. While `should_throttle` returns True, it uses a tenth of the time. Errors of the types in
    `unavailable` are temporary, as is an unavailable database.
    """

    name: str
    channel: str
    work: Callable[[], Awaitable[bool]]
    database: Database
    stopping: asyncio.Event
    interval_seconds: float = 0
    should_throttle: Callable[[], bool] = _never
    unavailable: tuple[type[Exception], ...] = ()
    _notified: asyncio.Event = field(default_factory=asyncio.Event)
    _last_run_seconds: float = 0

    async def run(self) -> None:
        """Run until shutdown, however often broker and database are unavailable."""
        listening = asyncio.create_task(self._listen(), name=f"{self.name} listener")
        stop = asyncio.create_task(self.stopping.wait())
        stop.add_done_callback(self._on_notification)
        try:
            with suppress(ShutdownRequested):
                while not self.stopping.is_set():
                    await self._run_once()
        finally:
            listening.cancel()
            stop.cancel()
            await asyncio.wait([listening])

    async def _run_once(self) -> None:
        began = monotonic()
        self._notified.clear()
        is_more_left = await retry_until_available(
            self._work_or_wait,
            _Waiting,
            self.stopping,
            longest_pause=2,
            say=lambda reason: log.warning(f"{self.name}.paused", reason=reason),
        )
        if not is_more_left and not self.stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._notified.wait()
        if self.should_throttle():
            await self._throttle(WAIT_SHARE * self._last_run_seconds)
        if not is_more_left:
            await sleep_unless_stopping(began + self.interval_seconds - monotonic(), self.stopping)

    async def _throttle(self, seconds: float) -> None:
        """Wait, but not longer than the reason for it lasts: a run may have taken seconds."""
        end = monotonic() + seconds
        while self.should_throttle() and not self.stopping.is_set() and (left := end - monotonic()) > 0:
            await sleep_unless_stopping(min(left, THROTTLE_CHECK_SECONDS), self.stopping)

    async def _work_or_wait(self) -> bool:
        began = monotonic()
        try:
            is_more_left = await self.work()
        except Exception as error:
            is_expected = isinstance(error, (DatabaseUnavailable, *self.unavailable))
            raise _Waiting(str(error) if is_expected else safe_summary(error)) from error
        self._last_run_seconds = monotonic() - began
        return is_more_left

    async def _listen(self) -> None:
        with suppress(ShutdownRequested):
            while not self.stopping.is_set():
                await retry_until_available(
                    lambda: blameless(self._receive_notifications()),
                    DatabaseUnavailable,
                    self.stopping,
                    longest_pause=2,
                )

    async def _receive_notifications(self) -> None:
        """Raises: DatabaseUnavailable, when the connection is lost."""
        async with self.database.connection() as connection:
            await connection.add_listener(self.channel, self._on_notification)
            while not self.stopping.is_set():
                await connection.execute("SELECT 1")
                await sleep_unless_stopping(LISTENER_CHECK_SECONDS, self.stopping)
            await connection.remove_listener(self.channel, self._on_notification)

    def _on_notification(self, *_: object) -> None:
        self._notified.set()
