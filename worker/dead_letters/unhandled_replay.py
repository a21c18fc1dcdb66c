"""Replays unhandled events of types that this release takes: as if the marketplace sent them now."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

from cryptography.fernet import MultiFernet

from consumers.registry import FAMILIES
from schemas.registry import Provider
from schemas.trace_context import ORIGIN_TRACEPARENT
from worker.amqp.channel import Channel
from worker.amqp.connection import Broker
from worker.amqp.message_spans import with_headers
from worker.amqp.tap import Delivery
from worker.dead_letters import unhandled_store as store
from worker.dead_letters.dry_run import dry_run
from worker.dead_letters.replay_message import Ready, Unready, publish_traced
from worker.dead_letters.unhandled_store import Unhandled, UnhandledSelection
from worker.intake.encryption import NoUsableKey
from worker.intake.intake import accept_unhandled
from worker.observability import tracing
from worker.observability.failpoints import failpoint
from worker.pipeline.decode import InvalidDelivery, decode
from worker.postgres.pool import Database

READ_TOGETHER = 100


@dataclass(slots=True)
class UnhandledTally:
    """How far a replay is. `left` counts, by type and reason, events that stay where they are."""

    total: int = 0
    published: int = 0
    left: Counter[tuple[str, str]] = field(default_factory=Counter)


def prepare(event: Unhandled, encryptor: MultiFernet | None) -> Ready | Unready:
    """Route an event as the ingest would now, with its original reception time.

    An event that breaks its schema stays as it is: it would be a dead letter at once.
    """
    try:
        accepted = accept_unhandled(Provider(event.provider), event.body, event.received_at, encryptor)
    except NoUsableKey as error:
        return Unready(str(error))
    if accepted.family is None:
        return Unready(accepted.reason or "no family handles it")
    message = accepted.message
    if event.traceparent is not None:
        message = with_headers(message, {ORIGIN_TRACEPARENT: event.traceparent})
    decoded = decode(
        FAMILIES[accepted.family], Delivery(0, message.type, message.headers, message.body, redelivered=False)
    )
    if isinstance(decoded, InvalidDelivery):
        return Unready(f"invalid: {decoded.reason}")
    return Ready(message, accepted.family, accepted.event_id, accepted.content_id)


async def dry_run_counts(
    database: Database, encryptor: MultiFernet | None, selection: UnhandledSelection
) -> Counter[tuple[str, str]]:
    """By type, and by what a replay would do against today's rows. Nothing is written or sent."""
    counts: Counter[tuple[str, str]] = Counter()
    async for events in _batches(database, selection, READ_TOGETHER):
        for event in events:
            match prepare(event, encryptor):
                case Ready() as ready:
                    would_be = await dry_run(database, ready)
                case Unready(reason):
                    would_be = f"stays: {reason}"
            counts[f"{event.provider}.{event.type}", would_be] += 1
    return counts


@dataclass(slots=True)
class UnhandledReplay:
    """One run of `stockhook unhandled replay`.

    An event is deleted once the broker has confirmed it. If a run dies in between, the next one publishes the
    event again, as a duplicate that the event log recognizes. So two runs at once do no harm either.
    """

    broker: Broker
    database: Database
    encryptor: MultiFernet | None
    rate: float
    on_progress: Callable[[UnhandledTally], None] = lambda _: None
    tally: UnhandledTally = field(default_factory=UnhandledTally)

    async def run(self, selection: UnhandledSelection) -> UnhandledTally:
        """Replay what is selected and was there when we began.

        Raises:
            Unroutable: The family's queue is missing.
            BrokerUnavailable
            DatabaseUnavailable
        """
        async with self.database.connection() as connection:
            self.tally.total, _ = await store.extent(connection, selection)
        async with self.broker.connection() as broker_connection:
            channel = await broker_connection.channel()
            began = monotonic()
            size = max(1, min(READ_TOGETHER, int(self.rate / 5)))
            async for events in _batches(self.database, selection, size):
                await self._publish(channel, events)
                self.on_progress(self.tally)
                await asyncio.sleep(max(0.0, began + self.tally.published / self.rate - monotonic()))
        return self.tally

    async def _publish(self, channel: Channel, events: Sequence[Unhandled]) -> None:
        ready: dict[int, Ready] = {}
        for event in events:
            match prepare(event, self.encryptor):
                case Ready() as prepared:
                    ready[event.unhandled_event_id] = prepared
                case Unready(reason):
                    self.tally.left[f"{event.provider}.{event.type}", reason] += 1
        tracer = tracing.active()
        await asyncio.gather(*(publish_traced(tracer, channel, prepared) for prepared in ready.values()))
        failpoint("unhandled_published")
        async with self.database.transaction() as connection:
            await store.delete(connection, ready)
        self.tally.published += len(ready)


async def _batches(
    database: Database, selection: UnhandledSelection, size: int
) -> AsyncIterator[list[Unhandled]]:
    """The events that exist at the start, the oldest first; no connection is held in between."""
    async with database.connection() as connection:
        _, until = await store.extent(connection, selection)
    after = 0
    while True:
        async with database.connection() as connection:
            events = await store.select(connection, selection, after=after, until=until, limit=size)
        if not events:
            return
        after = events[-1].unhandled_event_id
        yield events
