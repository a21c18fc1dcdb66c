"""Replays dead letters: each once, with a rate limit, until each has an outcome."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from time import monotonic
from typing import assert_never

from cryptography.fernet import MultiFernet

from consumers.family import Connection
from consumers.registry import FAMILIES
from worker.amqp.channel import Channel
from worker.amqp.connection import Broker
from worker.dead_letters import search, store
from worker.dead_letters.replay_message import Ready, Unready, prepare, publish_traced
from worker.dead_letters.search import Selection
from worker.dead_letters.store import Action, State, StoredLetter
from worker.observability import tracing
from worker.observability.errors import StockhookError
from worker.observability.failpoints import failpoint
from worker.postgres.locks import TRY_LOCK, UNLOCK, AdvisoryLock
from worker.postgres.pool import Database

# A replay stops once this many came back, if these are more than the applied ones.
STOPS_AFTER = 5

# The maximum number of replayed letters that are neither applied nor back: it limits the damage of a mistake.
UNDER_WAY_AT_MOST = 200

# The margin over the duration of the retry schedule after which waiting ends.
TIMEOUT_MARGIN = timedelta(seconds=60)
POLL_SECONDS = 0.25

NOW = "SELECT now()"


class AnotherRuns(StockhookError):
    """Another replay is running; two would not see each other's letters."""


@asynccontextmanager
async def exclusive(database: Database, lock: AdvisoryLock = AdvisoryLock.REPLAY) -> AsyncIterator[datetime]:
    """Hold the lock of replays; yields the database's time. The lock ends with its connection.

    Raises:
        AnotherRuns
    """
    async with database.connection() as connection:
        if not await connection.fetchval(TRY_LOCK, lock):
            raise AnotherRuns
        try:
            started_at: datetime = await connection.fetchval(NOW)
            yield started_at
        finally:
            await connection.execute(UNLOCK, lock)


@dataclass(slots=True)
class Tally:
    """The progress of a replay. Whether subscribers get a replayed change is not followed.

    `unready` are letters that were not replayed, with the reason, and `returned` those that came back: of
    each the first ones, and `not_replayed` and `came_back` are their numbers.

    `handed_on` counts changes that were published to a webhook's queue, and events of types that no family
    takes, which the archiver moves to the unhandled events.
    """

    total: int = 0
    replayed: int = 0
    applied: int = 0
    handed_on: int = 0
    came_back: int = 0
    not_replayed: int = 0
    unready: list[tuple[int, str]] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)
    stopped: str | None = None

    @property
    def under_way(self) -> int:
        return self.replayed - self.applied - self.handed_on - self.came_back


class Journal:
    """What a run does to continue after its process ends, and to end early. This one does nothing."""

    most_listed: int | None = None
    """Of the lists of a tally; None means no limit."""

    async def save(
        self, connection: Connection, tally: Tally, under_way: Collection[int], position: int
    ) -> None:
        """Write down how far the run is, in the transaction of what was done; `position` is a letter's id."""

    async def check(self, connection: Connection) -> None:
        """Raise an exception if the run must end. Called several times per second."""


@dataclass(slots=True)
class Replay:
    """One run of `stockhook dead replay`, or of a job of the console."""

    broker: Broker
    database: Database
    encryptor: MultiFernet | None
    delays: Sequence[timedelta]
    rate: float
    who: str
    reason: str | None
    tally: Tally = field(default_factory=Tally)
    on_progress: Callable[[Tally], None] = lambda _: None
    journal: Journal = field(default_factory=Journal)
    under_way: dict[int, datetime] = field(default_factory=dict)
    """Letters without an outcome, and since when they may have come back."""
    position: int = 0
    """The highest id that was handled."""
    _tally_before: tuple[int, int] = (0, 0)
    _decided_at: float = 0.0

    async def run(self, selection: Selection) -> Tally:
        """Replay the selected letters that exist at the start, and follow them to their outcome.

        A letter is marked before it is published, and again after the confirm. If a run dies in between, the
        next run publishes the letter again, and the event log recognizes it.

        Raises:
            AnotherRuns
            Unroutable: The family's queue is missing.
            BrokerUnavailable
            DatabaseUnavailable
        """
        async with exclusive(self.database) as started_at:
            async with self.database.connection() as connection:
                # What comes back meanwhile has a higher id.
                selection = replace(selection, last_id=await store.last_id(connection))
                self.tally.total = await search.count(connection, selection)
            return await self.run_exclusively(selection, started_at)

    async def run_exclusively(self, selection: Selection, started_at: datetime) -> Tally:
        """As `run`, by the holder of the lock, from the position on. Raises also what the journal raises."""
        async with self.broker.connection() as connection:
            channel = await connection.channel()
            self._tally_before = self.tally.came_back, self.tally.applied
            self._decided_at = monotonic()
            await self._publish_all(channel, selection, started_at)
            await self._follow_until(lambda: not self.under_way)
        return self.tally

    async def publish_one(self, dead_letter_id: int) -> Tally:
        """Replay one letter, without waiting for its outcome. `total` is 0 if its state allows no replay.

        Raises: as `run`, and NoSuchLetter.
        """
        async with exclusive(self.database) as started_at, self.broker.connection() as connection:
            letter = await store.get(self.database, dead_letter_id)
            if letter.state in (State.WAITING, State.REPLAYING):
                self.tally.total = 1
                await self._publish(await connection.channel(), [letter], started_at)
        return self.tally

    async def _publish_all(self, channel: Channel, selection: Selection, started_at: datetime) -> None:
        size = max(1, min(100, int(self.rate / 5)))
        began, replayed_before = monotonic(), self.tally.replayed
        while self.tally.stopped is None:
            async with search.searching(self.database) as connection:
                letters = await search.select(connection, selection, after=self.position, limit=size)
            if not letters:
                return
            await self._publish(channel, letters, started_at)
            await self._follow()
            due = began + (self.tally.replayed - replayed_before) / self.rate
            while self.tally.stopped is None and (left := due - monotonic()) > 0:
                await asyncio.sleep(min(left, POLL_SECONDS))
                await self._follow()
            if len(self.under_way) >= UNDER_WAY_AT_MOST:
                await self._follow_until(lambda: len(self.under_way) < UNDER_WAY_AT_MOST)

    async def _publish(self, channel: Channel, letters: Sequence[StoredLetter], started_at: datetime) -> None:
        ready: dict[int, Ready] = {}
        left: list[tuple[int, str]] = []
        for letter in letters:
            match prepare(letter, self.encryptor):
                case Ready() as prepared:
                    ready[letter.dead_letter_id] = prepared
                case Unready(reason):
                    left.append((letter.dead_letter_id, reason))
                case unreachable:
                    assert_never(unreachable)
        async with self.database.transaction() as connection:
            event_ids = [prepared.event_id for prepared in ready.values()]
            content_ids = [prepared.content_id for prepared in ready.values()]
            bodies = [letter.body for letter in letters if letter.dead_letter_id in ready]
            marked = await connection.fetch(store.MARK_REPLAYING, list(ready), event_ids, content_ids, bodies)
        ids = sorted(row["dead_letter_id"] for row in marked)
        left += [
            (number, "it was changed or discarded in the meantime") for number in sorted({*ready} - {*ids})
        ]
        failpoint("replay_started")
        tracer = tracing.active()
        await asyncio.gather(*(publish_traced(tracer, channel, ready[number]) for number in ids))
        failpoint("replay_published")
        followed = [number for number in ids if ready[number].origin in FAMILIES]
        self.under_way |= dict.fromkeys(followed, started_at)
        self.position = letters[-1].dead_letter_id
        self.tally.replayed += len(ids)
        self.tally.handed_on += len(ids) - len(followed)
        self.tally.not_replayed += len(left)
        self.tally.unready = [*self.tally.unready, *left][: self.journal.most_listed]
        async with self.database.transaction() as connection:
            await connection.execute(store.MARK_REPLAYED, ids)
            await store.note(connection, ids, self.who, Action.REPLAYED, self.reason)
            await self.journal.save(connection, self.tally, self.under_way, self.position)
        self._decided_at = monotonic()

    async def _follow(self) -> None:
        """Update the tally of letters under way; stop if most of them fail again."""
        async with self.database.connection() as connection:
            await self.journal.check(connection)
            rows = await connection.fetch(
                store.FOLLOW_REPLAY, list(self.under_way), list(self.under_way.values())
            )
            for row in rows:
                number = row["dead_letter_id"]
                del self.under_way[number]
                self._decided_at = monotonic()
                if row["is_back"]:
                    self.tally.came_back += 1
                    self.tally.returned = [*self.tally.returned, number][: self.journal.most_listed]
                else:
                    self.tally.applied += 1
            if rows:
                await self.journal.save(connection, self.tally, self.under_way, self.position)
        self.on_progress(self.tally)
        back, applied = self._tally_before
        if self.tally.came_back - back >= max(STOPS_AFTER, self.tally.applied - applied + 1):
            self.tally.stopped = "most letters fail again"

    async def _follow_until(self, is_enough: Callable[[], bool]) -> None:
        timeout = (sum(self.delays, timedelta()) + TIMEOUT_MARGIN).total_seconds()
        while True:
            await self._follow()
            if is_enough() or self.tally.stopped is not None:
                return
            if self.under_way and monotonic() - self._decided_at > timeout:
                self.tally.stopped = (
                    f"the letters under way have had no outcome for {timeout:.0f} s: "
                    "check that the consumers run"
                )
                return
            await asyncio.sleep(POLL_SECONDS)
