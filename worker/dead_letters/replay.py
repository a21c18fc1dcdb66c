"""Replays dead letters: as fresh attempts of the same events, at a measured pace, once each."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from time import monotonic
from typing import assert_never
from uuid import UUID

from cryptography.fernet import MultiFernet

from consumers.family import Event
from consumers.registry import FAMILIES
from schemas.changes import CONTENT_TYPE
from schemas.clock import TOLERANCE
from schemas.envelope import UNHANDLED, Envelope, InvalidEnvelope
from schemas.registry import Provider
from worker.amqp.channel import Channel, Message
from worker.amqp.connection import Broker
from worker.amqp.tap import Delivery
from worker.amqp.topology import RETURN, family_queue
from worker.dead_letters import store
from worker.dead_letters.message import QUARANTINE_ORIGIN, is_of_webhook
from worker.dead_letters.store import Action, Kept, Selection
from worker.intake.encryption import CannotUnseal
from worker.intake.intake import RESERVED_TYPE, accept_again
from worker.observability.errors import StockhookError, safe_summary
from worker.observability.failpoints import failpoint
from worker.pipeline.decode import InvalidDelivery, decode
from worker.postgres.event_log import LOGGED
from worker.postgres.locks import TRY_LOCK, UNLOCK, AdvisoryLock
from worker.postgres.pool import Database

PUBLISH_SECONDS = 10.0

# Where a replay moves a dead letter of a type that no family takes. Releases before the table
# `unhandled_events` made such dead letters.
UNHANDLED_ORIGIN = "unhandled"

# It stops by itself once so many came back, and these are more than those that were applied.
STOPS_AFTER = 5

# So many replayed letters may be under way, neither applied nor back: a mistake stays as small.
UNDER_WAY_AT_MOST = 200

# What is left over the time that the retry schedule takes before nothing more is waited for.
PATIENCE = timedelta(seconds=60)
LOOK_EVERY_SECONDS = 0.25

NOW = "SELECT now()"


class AnotherRuns(StockhookError):
    """Two replays at once would not know of each other's letters."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The message to publish for a letter, its origin, and its event.

    A change that goes to a webhook has no content id.
    """

    message: Message
    origin: str
    event_id: UUID
    content_id: UUID | None


@dataclass(frozen=True, slots=True)
class Unready:
    """It cannot be replayed as it is."""

    reason: str


def prepare(letter: Kept, sealer: MultiFernet | None) -> Ready | Unready:
    """As a fresh first attempt. What is quarantined is routed as the ingest routes it today."""
    if is_of_webhook(letter.origin):
        return _posted_again(letter)
    if letter.provider is None:
        return Unready("its headers do not say which marketplace it is from")
    try:
        envelope = Envelope.from_headers(letter.headers)
        is_changed = letter.original_body is not None
        received_at = letter.received_at or letter.arrived_at
        again = (
            accept_again(
                Provider(letter.provider), letter.body, received_at, sealer, store.provenance_of(letter)
            )
            if is_changed or letter.origin == QUARANTINE_ORIGIN
            else None
        )
    except (InvalidEnvelope, CannotUnseal) as error:
        return Unready(str(error))
    if again is not None:
        headers = {**again.message.headers, **envelope.evidence_headers}
        again = replace(again, message=replace(again.message, headers=headers))
    if again is not None and again.unhandled is not None and letter.origin == QUARANTINE_ORIGIN:
        return Ready(again.message, UNHANDLED_ORIGIN, again.event_id, again.content_id)
    if again is not None and again.family is None:
        is_reserved = again.reason == RESERVED_TYPE
        return Unready(RESERVED_TYPE if is_reserved else f"{again.reason}: no family takes it")
    if letter.origin == QUARANTINE_ORIGIN:
        assert again is not None, "it is quarantined"
        assert again.family is not None, "see above"
        return Ready(again.message, again.family, again.event_id, again.content_id)
    if again is not None and again.family != letter.origin:
        return Unready(f"as it was edited it is of the family {again.family}")
    content_id = again.content_id if again else envelope.content_id
    event_type = Envelope.from_headers(again.message.headers).event_type if again else envelope.event_type
    fresh = envelope.model_copy(
        update={
            "attempt": 1,
            "event_type": event_type,
            "content_id": content_id,
            "recorded_provenance": store.provenance_of(letter),
            "first_failed_at": None,
            "last_failed_at": None,
            "reason": None,
        }
    )
    queue = family_queue(letter.origin)
    message = Message(RETURN, queue, f"{letter.provider}.{event_type}", fresh.to_headers(), letter.body)
    return Ready(message, letter.origin, envelope.event_id, content_id)


def _posted_again(letter: Kept) -> Ready:
    """Under the same `webhook-id`, which is how a subscriber knows a change that it has."""
    headers = {name: str(letter.headers.get(name, "")) for name in ("x-change-id", "x-subject")}
    queue = family_queue(letter.origin)
    message = Message(RETURN, queue, letter.type, headers, letter.body, CONTENT_TYPE)
    return Ready(message, letter.origin, letter.event_id, None)


async def forecast(database: Database, ready: Ready, tolerance: timedelta = TOLERANCE) -> str:
    """In words what a replay would do against today's rows. Nothing is written."""
    if is_of_webhook(ready.origin):
        return "posted again"
    if ready.origin == UNHANDLED_ORIGIN:
        return f"{UNHANDLED}: moved to the unhandled events"
    family = FAMILIES[ready.origin]
    message = ready.message
    decoded = decode(family, Delivery(0, message.type, message.headers, message.body, redelivered=False))
    if isinstance(decoded, InvalidDelivery):
        return f"invalid: {decoded.reason}"
    candidate = decoded.candidate
    envelope = candidate.envelope
    event = Event(envelope.event_id, envelope.received_at, candidate.payload, tolerance=tolerance)
    async with database.connection() as connection:
        if await connection.fetch(LOGGED, [envelope.event_id], [envelope.content_id]):
            return "duplicate: it was applied already"
        try:
            states = await family.load(connection, [event], lock=False)
            before = states.get(family.key(event.payload))
            decision = family.decide(before, event)
        except Exception as error:
            return f"fails again: {safe_summary(error)}"
    return "older: it would be logged and change no row" if decision.state == before else "applied"


@dataclass(slots=True)
class Tally:
    """How far a replay is. `unready` are letters that were left, with the reason.

    `handed_on` are changes that a webhook's queue took, and whether the subscriber takes them is seen there;
    and events of types that no family takes, which the archiver moves to the unhandled events.
    """

    total: int = 0
    replayed: int = 0
    applied: int = 0
    handed_on: int = 0
    came_back: int = 0
    unready: list[tuple[int, str]] = field(default_factory=list)
    stopped: str | None = None

    @property
    def under_way(self) -> int:
        return self.replayed - self.applied - self.handed_on - self.came_back


@dataclass(slots=True)
class Replay:
    """One run of `stockhook dead replay`."""

    broker: Broker
    database: Database
    sealer: MultiFernet | None
    delays: Sequence[timedelta]
    rate: float
    who: str
    reason: str | None
    tally: Tally = field(default_factory=Tally)
    on_progress: Callable[[Tally], None] = lambda _: None
    _under_way: set[int] = field(default_factory=set)
    _began_at: datetime | None = None
    _decided_at: float = 0.0

    async def run(self, selection: Selection) -> Tally:
        """Replay what is selected and was there when we began; follow it until it is decided.

        A letter is marked before it is published, and again once that is confirmed: what was only
        begun by a run that died is published again by the next, and the event log knows it.

        Raises:
            AnotherRuns
            Unroutable: The family's queue is missing.
            BrokerUnavailable
            DatabaseUnavailable
        """
        async with self._alone() as began_at, self.broker.connection() as link:
            channel = await link.channel()
            self._began_at = began_at
            until = min(selection.until, began_at) if selection.until else began_at
            await self._publish_all(channel, replace(selection, until=until))
            await self._follow_until(lambda: not self._under_way)
        return self.tally

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[datetime]:
        """Yields the database's time. The lock goes with its connection, however we end."""
        async with self.database.connection() as connection:
            if not await connection.fetchval(TRY_LOCK, AdvisoryLock.REPLAY):
                raise AnotherRuns
            try:
                began_at: datetime = await connection.fetchval(NOW)
                yield began_at
            finally:
                await connection.execute(UNLOCK, AdvisoryLock.REPLAY)

    async def _publish_all(self, channel: Channel, selection: Selection) -> None:
        async with self.database.connection() as connection:
            self.tally.total = await store.count(connection, selection)
        size = max(1, min(100, int(self.rate / 5)))
        began, after = monotonic(), 0
        while self.tally.stopped is None:
            async with self.database.connection() as connection:
                letters = await store.select(connection, selection, after=after, limit=size)
            if not letters:
                return
            after = letters[-1].dead_letter_id
            await self._publish(channel, letters)
            await self._follow()
            await asyncio.sleep(max(0.0, began + self.tally.replayed / self.rate - monotonic()))
            if len(self._under_way) >= UNDER_WAY_AT_MOST:
                await self._follow_until(lambda: len(self._under_way) < UNDER_WAY_AT_MOST)

    async def _publish(self, channel: Channel, letters: Sequence[Kept]) -> None:
        ready: dict[int, Ready] = {}
        for letter in letters:
            match prepare(letter, self.sealer):
                case Ready() as prepared:
                    ready[letter.dead_letter_id] = prepared
                case Unready(reason):
                    self.tally.unready.append((letter.dead_letter_id, reason))
                case unreachable:
                    assert_never(unreachable)
        async with self.database.transaction() as connection:
            event_ids = [prepared.event_id for prepared in ready.values()]
            content_ids = [prepared.content_id for prepared in ready.values()]
            bodies = [letter.body for letter in letters if letter.dead_letter_id in ready]
            begun = await connection.fetch(store.BEGIN_REPLAY, list(ready), event_ids, content_ids, bodies)
        ids = sorted(row["dead_letter_id"] for row in begun)
        left = sorted(ready.keys() - set(ids))
        self.tally.unready += [(number, "somebody else changed or discarded it meanwhile") for number in left]
        failpoint("replay_begun")
        await asyncio.gather(*(channel.publish(ready[number].message, PUBLISH_SECONDS) for number in ids))
        failpoint("replay_published")
        async with self.database.transaction() as connection:
            await connection.execute(store.END_REPLAY, ids)
            await store.note(connection, ids, self.who, Action.REPLAYED, self.reason)
        followed = [number for number in ids if ready[number].origin in FAMILIES]
        self._under_way.update(followed)
        self.tally.replayed += len(ids)
        self.tally.handed_on += len(ids) - len(followed)
        self._decided_at = monotonic()

    async def _follow(self) -> None:
        """See what became of what is under way; stop where most of it fails again."""
        async with self.database.connection() as connection:
            rows = await connection.fetch(store.FOLLOW_REPLAY, list(self._under_way), self._began_at)
        for row in rows:
            self._under_way.discard(row["dead_letter_id"])
            self._decided_at = monotonic()
            if row["is_back"]:
                self.tally.came_back += 1
            else:
                self.tally.applied += 1
        self.on_progress(self.tally)
        if self.tally.came_back >= max(STOPS_AFTER, self.tally.applied + 1):
            self.tally.stopped = "most of it fails again"

    async def _follow_until(self, is_enough: Callable[[], bool]) -> None:
        patience = (sum(self.delays, timedelta()) + PATIENCE).total_seconds()
        while True:
            await self._follow()
            if is_enough() or self.tally.stopped is not None:
                return
            if monotonic() - self._decided_at > patience:
                self.tally.stopped = (
                    f"nothing came of what is under way for {patience:.0f} s: is it consumed?"
                )
                return
            await asyncio.sleep(LOOK_EVERY_SECONDS)
