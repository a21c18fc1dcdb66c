"""Publishes the changes that wait in the outbox, in order per entity, and deletes what is confirmed."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from time import monotonic
from typing import TypeVar

import structlog

from schemas.changes import CONTENT_TYPE, Published, cloud_events
from worker import metrics
from worker.changes import outbox
from worker.channel import BrokerUnavailable, Message
from worker.crash import crash_point
from worker.database import Database, DatabaseUnavailable, TransactionConflict
from worker.failure import describe
from worker.patience import Stopped, patiently, pause
from worker.publisher import Publisher
from worker.topology import CHANGES

T = TypeVar("T")

log = structlog.get_logger(__name__)

# Rows of each family that one transaction publishes at most; a row has the changes of one batch.
EACH_FAMILY = 2

# Of the time that a pass took, when it gives way.
WAIT_SHARE = 9.0

# Postgres tells of a commit at once; this is for what it told while the connection was lost.
LOOK_EVERY_SECONDS = 2.0
LISTENER_CHECK_SECONDS = 5.0


class _Waiting(Exception):
    """Changes wait, whatever the reason; projections go on."""


@dataclass(slots=True)
class Relay:
    """One of any number. A crash before the commit publishes the same changes again, under the same ids.

    While the consumers of this process are behind, `gives_way` says so: then it takes a tenth of the time,
    because an event that waits is worse than one of which others hear later.
    """

    database: Database
    publisher: Publisher
    stopping: asyncio.Event
    gives_way: Callable[[], bool]
    _told: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Publish until we stop, whatever happens to broker and database meanwhile."""
        listening = asyncio.create_task(self._listen(), name="changes listener")
        stop = asyncio.create_task(self.stopping.wait())
        stop.add_done_callback(self._on_notification)
        try:
            with suppress(Stopped):
                while not self.stopping.is_set():
                    await self._work_off()
        finally:
            listening.cancel()
            stop.cancel()
            await asyncio.wait([listening])

    async def _work_off(self) -> None:
        began = monotonic()
        self._told.clear()
        passed_on = await patiently(
            self._pass_on_or_wait,
            _Waiting,
            self.stopping,
            longest_pause=2,
            say=lambda reason: log.warning("changes.paused", reason=reason),
        )
        if passed_on and self.gives_way():
            await pause(WAIT_SHARE * (monotonic() - began), self.stopping)
        elif not passed_on and not self.stopping.is_set():
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
            rows = await outbox.take(connection, EACH_FAMILY)
            changes = [
                change
                for row in rows
                for change in cloud_events(row["batch_id"], row["sequence"], row["changes"])
            ]
            for wave in waves(changes, attrgetter("subject")):
                await self.publisher.tell([_message(change) for change in wave])
            crash_point("change_published")
        for kind, published in Counter(change.type for change in changes).items():
            metrics.CHANGES_PUBLISHED.labels(kind).inc(published)
        if rows:
            delay = datetime.now(UTC) - rows[0]["changed_at"]
            metrics.CHANGE_DELAY_SECONDS.observe(delay.total_seconds())
        return len(rows)

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


def _message(change: Published) -> Message:
    headers = {"x-change-id": change.change_id, "x-subject": change.subject}
    return Message(CHANGES, change.type, change.type, headers, change.body, CONTENT_TYPE)


def waves(items: Sequence[T], subject: Callable[[T], object]) -> Iterator[list[T]]:
    """Of each subject one item at a time: the next is sent only once this one is confirmed."""
    waiting = items
    while waiting:
        wave: dict[object, T] = {}
        later = []
        for item in waiting:
            if wave.setdefault(subject(item), item) is not item:
                later.append(item)
        yield list(wave.values())
        waiting = later
