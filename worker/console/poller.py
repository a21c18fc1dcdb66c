"""One poller for all viewers: snapshots often while there is one, otherwise rarely, for the history."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import structlog

from consumers.registry import FAMILIES
from worker.amqp.connection import Broker
from worker.amqp.queue_set import main_queue
from worker.config.settings import Settings
from worker.console.charts import HISTORY, HISTORY_STEP, Charts, Point, charts
from worker.console.pipeline import (
    RATE_WINDOW,
    Observed,
    PipelineView,
    event_age_quantiles,
    pipeline,
    point,
)
from worker.console.refusals import Increases, Refusals, refusals
from worker.console.snapshot import Snapshot, SnapshotReader
from worker.observability.backoff import repeat_until_stopping
from worker.observability.errors import safe_summary
from worker.postgres.pool import Database
from worker.tools.audit import Audit, audit

log = structlog.get_logger(__name__)

LIVE_SECONDS = 2.0

# So long an action waits at most until the pages show its effect.
REFRESH_SECONDS = 3.0

# In-flight deliveries are settled within this time; the audit repeats itself meanwhile.
AUDIT_PATIENCE_SECONDS = 5.0

POINTS = HISTORY // HISTORY_STEP


class Poller:
    """The newest snapshot, an hour of history, and the last two audits, all in memory."""

    def __init__(
        self, broker: Broker, database: Database, settings: Settings, stopping: asyncio.Event
    ) -> None:
        self._broker = broker
        self._database = database
        self._settings = settings
        self._stopping = stopping
        self._reader = SnapshotReader(broker, database, settings)
        self._viewers = 0
        self._wanted = asyncio.Event()
        self._changed = asyncio.Condition()
        self._recent: deque[Snapshot] = deque()
        self._last_empty: dict[str, datetime] = {}
        self._audits: deque[tuple[datetime, Audit]] = deque(maxlen=2)
        self._history: dict[str, deque[Point]] = {family: deque(maxlen=POINTS) for family in FAMILIES}
        self._history_snapshot: Snapshot | None = None
        self._increases = Increases()
        self._began_at: datetime | None = None
        self._charts: dict[int, Charts] = {}
        self._pipeline: tuple[tuple[datetime, ...], PipelineView] | None = None
        self.number = 0
        """Of the newest snapshot, from 1; 0 while there is none."""

    async def run(self) -> None:
        """Snapshot and audit until shutdown."""
        auditing = asyncio.create_task(self._audit_regularly(), name="audits")
        try:
            while not self._stopping.is_set():
                try:
                    await self._take()
                except Exception as error:
                    # The next snapshot may succeed; until then the screens show the time of the last one.
                    log.warning("snapshot.failed", error=safe_summary(error))
                await self._wait_until_due()
        finally:
            auditing.cancel()
            async with self._changed:
                self._changed.notify_all()
            await self._reader.close()

    async def _wait_until_due(self) -> None:
        """Until the next snapshot is due: soon for viewers, otherwise for the history."""
        seconds = LIVE_SECONDS if self._viewers else HISTORY_STEP.total_seconds()
        tasks = [asyncio.create_task(event.wait()) for event in (self._wanted, self._stopping)]
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        # The snapshot that begins now is for all requests so far; a later request needs another one.
        self._wanted.clear()

    async def _take(self) -> None:
        began_at = datetime.now(UTC)
        snapshot = await self._reader.take()
        self._began_at = began_at
        self._recent.append(snapshot)
        while snapshot.at - self._recent[0].at > RATE_WINDOW and len(self._recent) > 2:
            self._recent.popleft()
        for family in FAMILIES:
            depth = None if snapshot.queues is None else snapshot.queues.get(main_queue(family))
            if depth is not None and not depth.ready:
                self._last_empty[family] = snapshot.at
        earlier = self._history_snapshot
        if earlier is None or snapshot.at - earlier.at >= HISTORY_STEP:
            for family, points in self._history.items():
                points.append(point(family, snapshot, earlier))
            self._charts.clear()
            self._increases.add(snapshot)
            self._history_snapshot = snapshot
        async with self._changed:
            self.number += 1
            self._changed.notify_all()

    async def _audit_regularly(self) -> None:
        async def take_audit() -> None:
            result = await audit(
                self._broker,
                self._database,
                self._settings,
                spooled=None,
                patience=AUDIT_PATIENCE_SECONDS,
            )
            self._audits.append((datetime.now(UTC), result))

        def warn(error: Exception) -> None:
            # The next audit may succeed; until then the screen shows when the last one was.
            log.warning("audit.failed", error=safe_summary(error))

        await repeat_until_stopping(take_audit, HISTORY_STEP.total_seconds(), self._stopping, warn)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """While a viewer looks, snapshots are taken every few seconds."""
        self._viewers += 1
        self._wanted.set()
        try:
            yield
        finally:
            self._viewers -= 1

    async def next(self, after: int) -> int:
        """The number of the first snapshot later than this one, once there is one, or at shutdown."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.number > after or self._stopping.is_set())
        return self.number

    async def refresh(self) -> None:
        """Wait for a snapshot that shows what was changed before this call, for a few seconds at most."""
        changed_at = datetime.now(UTC)
        with suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_SECONDS):
                while self._began_at is None or self._began_at < changed_at:
                    if self._stopping.is_set():
                        return
                    self._wanted.set()
                    await self.next(self.number)

    async def current(self) -> PipelineView:
        """The pipeline as of a snapshot that is a few seconds old at most.

        All who read the same snapshot share it.
        """
        snapshot, audits = await self.snapshot(), tuple(self._audits)
        key = (snapshot.at, *(at for at, _ in audits))
        if self._pipeline is None or self._pipeline[0] != key:
            self._pipeline = key, pipeline(snapshot, self._observed(), self._settings.delays)
        return self._pipeline[1]

    async def snapshot(self) -> Snapshot:
        """The newest snapshot, a few seconds old at most.

        Raises:
            NoSnapshot
        """
        if not self._recent or datetime.now(UTC) - self._recent[-1].at > RATE_WINDOW / 4:
            self._wanted.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.next(self.number), LIVE_SECONDS)
        if not self._recent:
            raise NoSnapshot
        return self._recent[-1]

    def charts(self, points: int) -> Charts:
        """The last hour of all families; shared until there is another point of the history."""
        if points not in self._charts:
            self._charts[points] = charts(self._history, points)
        return self._charts[points]

    def refusals(self) -> Refusals:
        """As of the newest snapshot. The last hour is counted until the newest point of the history.

        Raises: NoSnapshot.
        """
        if not self._recent:
            raise NoSnapshot
        return refusals(self._recent[-1], self._increases)

    def event_age(self, family: str, quantiles: Sequence[float]) -> tuple[float | None, ...]:
        """Upper bounds of the age of events at their commit during the last seconds."""
        return event_age_quantiles(family, self._recent[-1], self._recent[0], quantiles)

    def _observed(self) -> Observed:
        return Observed(tuple(self._recent), self._last_empty, tuple(self._audits))


class NoSnapshot(Exception):
    """There is no snapshot yet."""
