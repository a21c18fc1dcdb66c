"""Publishes the changes that wait in the outbox, in order per entity, and deletes what is confirmed."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog

from schemas.changes import CONTENT_TYPE, PREFIX, cloud_event
from worker import metrics
from worker.changes import outbox
from worker.channel import BrokerUnavailable, Message, Unroutable
from worker.crash import crash_point
from worker.database import Database, DatabaseUnavailable, TransactionConflict
from worker.failure import describe
from worker.patience import Stopped, patiently, pause
from worker.publisher import Publisher
from worker.topology import CHANGES

log = structlog.get_logger(__name__)

# What one transaction publishes at most.
BATCH = 500

# Postgres tells of a commit at once; this is for what it told while the connection was lost.
LOOK_EVERY_SECONDS = 2.0
LISTENER_CHECK_SECONDS = 5.0


class _Waiting(Exception):
    """Changes wait, whatever the reason; projections go on."""


@dataclass(slots=True)
class Relay:
    """One of any number. A crash before the commit publishes the same changes again, under the same ids."""

    database: Database
    publisher: Publisher
    stopping: asyncio.Event
    _told: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Publish until we stop, whatever happens to broker and database meanwhile."""
        listening = asyncio.create_task(self._listen(), name="changes listener")
        try:
            with suppress(Stopped):
                while not self.stopping.is_set():
                    await self._work_off()
        finally:
            listening.cancel()
            await asyncio.wait([listening])

    async def _work_off(self) -> None:
        self._told.clear()
        passed_on = await patiently(
            self._pass_on_or_wait,
            _Waiting,
            self.stopping,
            longest_pause=2,
            say=lambda reason: log.warning("changes.paused", reason=reason),
        )
        if not passed_on:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_SECONDS):
                    await self._told.wait()

    async def _pass_on_or_wait(self) -> int:
        try:
            return await self._pass_on()
        except (DatabaseUnavailable, BrokerUnavailable) as error:
            raise _Waiting(str(error)) from error
        except Exception as error:
            raise _Waiting(describe(error)) from error

    async def _pass_on(self) -> int:
        """Publish some; say how many.

        Raises:
            DatabaseUnavailable
            BrokerUnavailable: Some may have been published.
        """
        async with self.database.transaction() as connection:
            rows = await outbox.take(connection, BATCH)
            if not rows:
                return 0
            for wave in waves(rows):
                await asyncio.gather(*map(self._publish, wave))
            crash_point("change_published")
            await outbox.delete(connection, rows)
        for row in rows:
            metrics.CHANGES_PUBLISHED.labels(row["type"]).inc()
        metrics.CHANGE_DELAY_SECONDS.observe((datetime.now(UTC) - rows[0]["changed_at"]).total_seconds())
        return len(rows)

    async def _publish(self, row: Any) -> None:
        name = PREFIX + row["type"]
        headers = {"x-subject": row["subject"]}
        # Nobody has to be subscribed.
        with suppress(Unroutable):
            await self.publisher.publish(
                Message(CHANGES, name, name, headers, cloud_event(row), CONTENT_TYPE)
            )

    async def _listen(self) -> None:
        with suppress(Stopped):
            while not self.stopping.is_set():
                await patiently(
                    self._hear, (DatabaseUnavailable, TransactionConflict), self.stopping, longest_pause=2
                )

    async def _hear(self) -> None:
        """Raises: DatabaseUnavailable, when the connection is lost."""
        async with self.database.connection() as connection:
            await connection.add_listener(outbox.CHANNEL, self._on_notification)
            try:
                while not self.stopping.is_set():
                    await connection.execute("SELECT 1")
                    await pause(LISTENER_CHECK_SECONDS, self.stopping)
            finally:
                if not connection.is_closed():
                    await connection.remove_listener(outbox.CHANNEL, self._on_notification)

    def _on_notification(self, *_: object) -> None:
        self._told.set()


def waves(rows: Sequence[Any]) -> Iterator[list[Any]]:
    """Of each subject one change at a time: the next is published only once this one is confirmed."""
    waiting = rows
    while waiting:
        wave: dict[str, Any] = {}
        later = []
        for row in waiting:
            if row["subject"] in wave:
                later.append(row)
            else:
                wave[row["subject"]] = row
        yield list(wave.values())
        waiting = later
