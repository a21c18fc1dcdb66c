"""Moves dead letters and the quarantine from the broker into Postgres, where people can work on them.

In the quarantine lie two kinds: what is broken becomes a dead letter; a well-formed event of a type that no
family takes goes to the unhandled events.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import structlog

from schemas.envelope import UNHANDLED
from worker.amqp.channel import Channel, Message
from worker.amqp.connection import Broker, reconnect_forever
from worker.amqp.desired_topology import expected_topology
from worker.amqp.errors import BrokerUnavailable, Unroutable
from worker.amqp.publisher import Publisher, publish_until_confirmed
from worker.amqp.tap import Delivery
from worker.amqp.topology import QUARANTINE, RETURN, dead_queue
from worker.amqp.watchdog import LONGEST_HOLD_SECONDS, WATCHDOG_SECONDS, watch_channel
from worker.config.settings import Settings
from worker.dead_letters import store, unhandled_store
from worker.dead_letters.message import (
    QUARANTINE_ORIGIN,
    Letter,
    bare_letter,
    read_letter,
)
from worker.dead_letters.unhandled_labels import Labels
from worker.dead_letters.unhandled_store import Arriving, read_arriving
from worker.observability import metrics
from worker.observability.backoff import DeadlineExceeded, ShutdownRequested, retry_until_available
from worker.observability.errors import safe_summary
from worker.observability.failpoints import failpoint
from worker.postgres.errors import InternalServerError, OperatorInterventionError
from worker.postgres.pool import (
    Database,
    DatabaseUnavailable,
    TransactionConflict,
    blameless,
)

log = structlog.get_logger(__name__)

# Bodies of the size of the cap, in the memory of one process.
PREFETCH = 25

# Headers that the broker puts on what it dead-letters: of a history that ends here.
OF_THE_BROKER = ("x-death", "x-first-death-", "x-last-death-")

# Busy, cut short, or broken underneath: the same letter may well be taken in a moment.
_NOT_THE_LETTERS = (TransactionConflict, OperatorInterventionError, InternalServerError)


@dataclass(frozen=True, slots=True)
class _Arrived:
    origin: str
    delivery: Delivery

    @property
    def is_unhandled(self) -> bool:
        return self.origin == QUARANTINE_ORIGIN and self.delivery.headers.get("x-reason") == UNHANDLED


@dataclass(slots=True)
class Archiver:
    """One connection that takes in several origins; acked after the commit.

    A crash in between delivers the same messages again: their keys are in the table already.
    """

    families: tuple[str, ...]
    settings: Settings
    broker: Broker
    database: Database
    publisher: Publisher
    stopping: asyncio.Event
    _arrived: deque[_Arrived] = field(default_factory=deque)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _lost: bool = False
    _labels: Labels = field(default_factory=Labels)

    async def run(self) -> None:
        """Keep what comes until we stop, whatever happens to broker and database meanwhile."""
        await reconnect_forever("dead letters", self._session, self.stopping)

    @property
    def _queues(self) -> dict[str, str]:
        origins = (*self.families, *(subscriber.origin for subscriber in self.settings.subscribers))
        return {dead_queue(origin): origin for origin in origins} | {QUARANTINE: QUARANTINE_ORIGIN}

    async def _session(self) -> None:
        await retry_until_available(self.database.ping, DatabaseUnavailable, self.stopping, longest_pause=2)
        self._arrived.clear()
        self._changed.clear()
        self._lost = False
        async with self.broker.connection() as link:
            expected = expected_topology(self.settings, self.families)
            channel = await link.channel_with(expected, declares=self.settings.declare_topology)
            channel.on_cancelled(self._end)
            for queue, origin in self._queues.items():
                await channel.consume(queue, f"dead.{origin}", PREFETCH, partial(self._put, origin))
            watch = asyncio.create_task(self._end_when_lost(channel))
            # What cannot be acked, because the connection is lost or we stop, comes again.
            with suppress(ShutdownRequested, BrokerUnavailable, Unroutable):
                await self._work(channel)
            watch.cancel()

    def _put(self, origin: str, delivery: Delivery) -> None:
        self._arrived.append(_Arrived(origin, delivery))
        self._changed.set()

    def _end(self) -> None:
        self._lost = True
        self._changed.set()

    async def _end_when_lost(self, channel: Channel) -> None:
        try:
            are_subscribed = partial(self._are_subscribed, channel)
            await watch_channel(channel, self.stopping, WATCHDOG_SECONDS, are_subscribed)
        finally:
            self._end()

    async def _are_subscribed(self, channel: Channel, within: float) -> bool:
        for queue in self._queues:
            if self.stopping.is_set() or not channel.is_open:
                return False
            if not await channel.is_subscribed(queue, within):
                log.warning("subscription.lost", queue=queue)
                return False
        return True

    async def _work(self, channel: Channel) -> None:
        while not self._lost:
            if not self._arrived:
                self._changed.clear()
                await self._changed.wait()
                continue
            batch = [self._arrived.popleft() for _ in range(min(PREFETCH, len(self._arrived)))]
            try:
                await retry_until_available(
                    lambda batch=batch: self._keep(batch),  # type: ignore[misc]  # bound at once
                    DatabaseUnavailable,
                    self.stopping,
                    longest_pause=2,
                    at_most=LONGEST_HOLD_SECONDS,
                    say=lambda reason: log.warning("dead_letters.paused", reason=reason),
                )
            except DeadlineExceeded:
                await self._requeue(channel, batch)
                return
            failpoint("dead_letter_kept")
            await channel.ack_up_to(batch[-1].delivery.tag)
            unhandled = sum(arrived.is_unhandled for arrived in batch)
            if unhandled < len(batch):
                log.info("dead_letters.kept", letters=len(batch) - unhandled)
            if unhandled:
                log.debug("unhandled_events.kept", events=unhandled)

    async def _keep(self, batch: Sequence[_Arrived]) -> None:
        """Raises: DatabaseUnavailable."""
        try:
            await self._store([_letter(arrived) for arrived in batch])
        except DatabaseUnavailable:
            raise
        except Exception as error:
            # Which of them the table does not take is not known: each by itself, the odd one bare.
            log.warning("dead_letters.kept_singly", error=safe_summary(error))
            for arrived in batch:
                await self._keep_one(arrived)

    async def _keep_one(self, arrived: _Arrived) -> None:
        try:
            await self._store([_letter(arrived)])
        except DatabaseUnavailable:
            raise
        except Exception as error:
            log.error("dead_letter.kept_bare", origin=arrived.origin, error=safe_summary(error))
            await self._keep_bare(arrived)

    async def _keep_bare(self, arrived: _Arrived) -> None:
        """Raises: DatabaseUnavailable, whatever the reason: it is not the letter's."""
        await blameless(self._store([bare_letter(arrived.origin, arrived.delivery)]))

    async def _store(self, letters: Sequence[Letter | Arriving]) -> None:
        """Raises: DatabaseUnavailable; what else is raised, the letters may be guilty of."""
        unhandled = [letter for letter in letters if isinstance(letter, Arriving)]
        try:
            async with self.database.transaction() as connection:
                await store.keep(connection, (one for one in letters if isinstance(one, Letter)))
                new_types = await unhandled_store.keep(connection, unhandled, self._labels.names)
        except _NOT_THE_LETTERS as error:
            raise DatabaseUnavailable(safe_summary(error)) from error
        self._count(unhandled, new_types)

    def _count(self, unhandled: Sequence[Arriving], new_types: Sequence[str]) -> None:
        """Log the first event of each type; count all, under a bounded number of labels."""
        for name in new_types:
            log.warning("event_type.unhandled", type=name)
        for event in unhandled:
            metrics.UNHANDLED.labels(event.provider, self._labels.of(event.provider, event.type)).inc()

    async def _requeue(self, channel: Channel, batch: Sequence[_Arrived]) -> None:
        """To the end of their queues, as if they had just arrived."""
        await channel.cancel_consumers()
        held = [*batch, *self._arrived]
        copies = [_same_again(arrived) for arrived in held]
        await asyncio.gather(
            *(publish_until_confirmed(self.publisher, copy, self.stopping, channel) for copy in copies)
        )
        await channel.ack_up_to(held[-1].delivery.tag)
        log.warning("dead_letters.gave_back", letters=len(held))


def _letter(arrived: _Arrived) -> Letter | Arriving:
    unhandled = read_arriving(arrived.delivery) if arrived.is_unhandled else None
    return unhandled or read_letter(arrived.origin, arrived.delivery)


def _same_again(arrived: _Arrived) -> Message:
    """With the reason spelled out, which may be the broker's and would be lost with its headers."""
    delivery = arrived.delivery
    reason = read_letter(arrived.origin, delivery).reason
    headers = {
        name: value
        for name, value in delivery.headers.items()
        if isinstance(value, str | int) and not name.startswith(OF_THE_BROKER)
    }
    headers["x-reason"] = reason
    if arrived.origin == QUARANTINE_ORIGIN:
        return Message(QUARANTINE, "", delivery.type, headers, delivery.body)
    return Message(RETURN, dead_queue(arrived.origin), delivery.type, headers, delivery.body)
