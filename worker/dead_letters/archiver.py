"""Moves dead letters and the quarantine from the broker into Postgres, where people can work on them.

The quarantine holds two kinds of messages. A malformed one becomes a dead letter; a well-formed event whose
type no family handles becomes an unhandled event.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from schemas.envelope import UNHANDLED
from worker.amqp.channel import Message
from worker.amqp.connection import Broker
from worker.amqp.desired_topology import expected_topology
from worker.amqp.publisher import Publisher
from worker.amqp.queue_set import dead_queue
from worker.amqp.subscription import Session, Subscription, requeue_copy
from worker.amqp.tap import Delivery
from worker.amqp.topology import QUARANTINE
from worker.config.settings import Settings
from worker.dead_letters import store, unhandled_store
from worker.dead_letters.message import (
    QUARANTINE_ORIGIN,
    Letter,
    minimal_letter,
    read_letter,
)
from worker.dead_letters.unhandled_labels import Labels
from worker.dead_letters.unhandled_store import Arriving, read_arriving
from worker.observability import metrics
from worker.observability.errors import safe_summary
from worker.observability.failpoints import failpoint
from worker.postgres.durability import commit_durably
from worker.postgres.errors import InternalServerError, OperatorInterventionError
from worker.postgres.failures import DatabaseUnavailable, TransactionConflict, blameless
from worker.postgres.pool import Database

log = structlog.get_logger(__name__)

# Deliveries of each queue, and of a batch: their bodies, of up to 256 KiB, are in memory.
PREFETCH = 25

# The database is busy, interrupted or damaged: the same letter may be stored a moment later.
_NOT_CAUSED_BY_LETTERS = (TransactionConflict, OperatorInterventionError, InternalServerError)


@dataclass(slots=True)
class Archiver:
    """Consumes several queues over one connection, and acknowledges after the commit.

    After a crash in between the same messages are delivered again: the table has their keys.
    """

    families: tuple[str, ...]
    settings: Settings
    broker: Broker
    database: Database
    publisher: Publisher
    stopping: asyncio.Event
    subscription: Subscription[Delivery] = field(init=False)
    _origins: Mapping[str, str] = field(init=False)
    _labels: Labels = field(default_factory=Labels)

    def __post_init__(self) -> None:
        origins = (*self.families, *(subscriber.origin for subscriber in self.settings.subscribers))
        self._origins = {dead_queue(origin): origin for origin in origins} | {QUARANTINE: QUARANTINE_ORIGIN}
        self.subscription = Subscription(
            "dead letters",
            list(self._origins),
            expected_topology(self.settings, self.families),
            self.settings.declare_topology,
            self.broker,
            self.publisher,
            self.stopping,
            prerequisite=self.database.ping,
            outages=(DatabaseUnavailable,),
            read=lambda delivery: delivery,
            prefetch=lambda: PREFETCH,
            copy_to_requeue=self._copy_to_requeue,
        )

    async def run(self) -> None:
        """Archive until shutdown, however often broker and database are unavailable."""
        await self.subscription.run(self._work)

    async def _work(self, session: Session[Delivery]) -> None:
        while batch := await session.receive(PREFETCH):
            await session.retry_until_available(
                lambda batch=batch: self._store(batch),  # type: ignore[misc]  # bound at once
                lambda reason: log.warning("dead_letters.paused", reason=reason),
            )
            failpoint("dead_letter_stored")
            await session.ack_up_to(batch[-1])
            unhandled = sum(map(self._is_unhandled, batch))
            if unhandled < len(batch):
                log.info("dead_letters.stored", letters=len(batch) - unhandled)
            if unhandled:
                log.debug("unhandled_events.stored", events=unhandled)

    async def _store(self, batch: Sequence[Delivery]) -> None:
        """Store a batch; if that fails, each delivery by itself, and as little as possible of a bad one.

        Raises:
            DatabaseUnavailable
        """
        try:
            await self._write([self._letter(delivery) for delivery in batch])
        except DatabaseUnavailable:
            raise
        except Exception as error:
            log.warning("dead_letters.stored_singly", error=safe_summary(error))
            for delivery in batch:
                await self._store_one(delivery)

    async def _store_one(self, delivery: Delivery) -> None:
        """Raises: DatabaseUnavailable."""
        try:
            await self._write([self._letter(delivery)])
        except DatabaseUnavailable:
            raise
        except Exception as error:
            origin = self._origins[delivery.queue]
            log.error("dead_letter.stored_minimal", origin=origin, error=safe_summary(error))
            await blameless(self._write([minimal_letter(origin, delivery)]))

    async def _write(self, letters: Sequence[Letter | Arriving]) -> None:
        """Raises: DatabaseUnavailable; any other error may be caused by a letter."""
        unhandled = [letter for letter in letters if isinstance(letter, Arriving)]
        try:
            async with self.database.transaction() as connection:
                await store.insert(connection, (letter for letter in letters if isinstance(letter, Letter)))
                new_types = await unhandled_store.insert(connection, unhandled, self._labels.names)
                # A commit whose answer was lost may have stored them, and not be durable yet.
                await commit_durably(connection)
        except _NOT_CAUSED_BY_LETTERS as error:
            raise DatabaseUnavailable(safe_summary(error)) from error
        self._count(unhandled, new_types)

    def _count(self, unhandled: Sequence[Arriving], new_types: Sequence[str]) -> None:
        """Log the first event of each type; count all, under a bounded number of labels."""
        for name in new_types:
            log.warning("event_type.unhandled", type=name)
        for event in unhandled:
            metrics.UNHANDLED.labels(event.provider, self._labels.of(event.provider, event.type)).inc()

    def _letter(self, delivery: Delivery) -> Letter | Arriving:
        unhandled = read_arriving(delivery) if self._is_unhandled(delivery) else None
        return unhandled or read_letter(self._origins[delivery.queue], delivery)

    def _is_unhandled(self, delivery: Delivery) -> bool:
        return delivery.queue == QUARANTINE and delivery.headers.get("x-reason") == UNHANDLED

    def _copy_to_requeue(self, delivery: Delivery) -> Message:
        """With the reason in a header of ours: the broker's own headers, which may state it, end here."""
        reason = read_letter(self._origins[delivery.queue], delivery).reason
        return requeue_copy(delivery, headers={"x-reason": reason})
