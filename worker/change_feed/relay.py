"""Publishes the changes in the outbox, in order per entity, and deletes confirmed ones."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import TypeVar

import structlog

from schemas.changes import CONTENT_TYPE, Published, cloud_events, with_traceparent
from schemas.trace_context import TRACEPARENT, read_traceparent
from worker.amqp.channel import Message
from worker.amqp.errors import BrokerUnavailable
from worker.amqp.message_spans import sent, with_headers
from worker.amqp.publisher import Publisher
from worker.amqp.topology import CHANGES
from worker.observability import metrics, tracing
from worker.observability.failpoints import failpoint
from worker.observability.tracing import Kind, Tracer
from worker.outbox import changes as outbox
from worker.postgres.durability import Flusher
from worker.postgres.notify_poller import NotifyPoller
from worker.postgres.pool import Database

T = TypeVar("T")

log = structlog.get_logger(__name__)

# The limit of changes per family and transaction; the last row may exceed it.
CHANGES_PER_FAMILY = 400

# The shortest time between the beginnings of two transactions, unless more changes wait: a transaction costs
# as much as many changes.
INTERVAL_SECONDS = 0.05


@dataclass(slots=True)
class Relay:
    """Several may run. A crash of this process before the commit, or of Postgres before the commit is
    durable, publishes the same changes again, with the same ids.

    While `should_throttle` returns True, because the consumers of this process are behind, the relay uses a
    tenth of the time: a waiting event is worse than a delayed change.
    """

    database: Database
    flusher: Flusher
    publisher: Publisher
    stopping: asyncio.Event
    should_throttle: Callable[[], bool]

    async def run(self) -> None:
        """Publish until shutdown, however often broker and database are unavailable."""
        await NotifyPoller(
            "changes",
            outbox.CHANNEL,
            self._publish_some,
            self.database,
            self.stopping,
            interval_seconds=INTERVAL_SECONDS,
            should_throttle=self.should_throttle,
            unavailable=(BrokerUnavailable,),
        ).run()

    async def _publish_some(self) -> bool:
        """Publish some changes; True if more may be left.

        Raises:
            DatabaseUnavailable
            BrokerUnavailable: Some may have been published.
        """
        async with self.flusher.transaction(asynchronously=True) as (connection, flush_session):
            rows = await outbox.claim(connection, CHANGES_PER_FAMILY)
            if rows:
                # Their batches may have been committed asynchronously: a published change must not be lost.
                await flush_session.flush()
            changes: list[Published] = []
            published: Counter[str] = Counter()
            for row in rows:
                events = list(cloud_events(row["batch_id"], row["sequence"], row["changes"]))
                changes += events
                published[row["family"]] += len(events)
            if rows:
                failpoint("change_taken")
            tracer = tracing.active()
            for wave in waves(changes, attrgetter("subject")):
                with sending(tracer, wave) as messages:
                    await self.publisher.publish_many(messages)
            if rows:
                await outbox.count_published(connection, published)
            failpoint("change_published")
        for kind, number in Counter(change.type for change in changes).items():
            metrics.CHANGES_PUBLISHED.labels(kind).inc(number)
        if rows:
            delay = datetime.now(UTC) - rows[0]["changed_at"]
            metrics.CHANGE_DELAY_SECONDS.observe(delay.total_seconds())
        return max(published.values(), default=0) >= CHANGES_PER_FAMILY


@contextmanager
def sending(tracer: Tracer | None, changes: Sequence[Published]) -> Iterator[list[Message]]:
    """The messages of changes. Each that a recorded event caused has a span, linked to that event.

    The span's context is only in the header: a change that is published again has the same body.
    """
    with ExitStack() as spans:
        messages = []
        for change in changes:
            made = message(change)
            if tracer is not None and (cause := read_traceparent(change.traceparent)) is not None:
                name, attributes = sent(made, change.change_id)
                span = spans.enter_context(tracer.span(name, Kind.PRODUCER, attributes, links=[cause]))
                made = with_headers(made, span.context.headers)
            messages.append(made)
        yield messages


def message(change: Published) -> Message:
    """The context of the event that caused the change is an extension of the CloudEvent, and the header."""
    headers: dict[str, str | int] = {"x-change-id": change.change_id, "x-subject": change.subject}
    body = change.body
    if change.traceparent is not None:
        headers[TRACEPARENT] = change.traceparent
        body = with_traceparent(body, change.traceparent)
    return Message(CHANGES, change.type, change.type, headers, body, CONTENT_TYPE)


def waves(items: Sequence[T], subject: Callable[[T], object]) -> Iterator[list[T]]:
    """Split items into waves with one item per subject: a wave is sent once the previous one is confirmed."""
    waiting = items
    while waiting:
        wave: dict[object, T] = {}
        later = []
        for item in waiting:
            if wave.setdefault(subject(item), item) is not item:
                later.append(item)
        yield list(wave.values())
        waiting = later
