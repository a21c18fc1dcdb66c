"""Publishes due actions to their queue, and records each once the broker has confirmed it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from schemas.trace_context import TRACEPARENT, read_traceparent
from worker.actions.registry import KINDS
from worker.amqp.channel import Message
from worker.amqp.errors import BrokerUnavailable
from worker.amqp.message_spans import sent, with_headers
from worker.amqp.publisher import Publisher
from worker.amqp.queue_set import main_queue
from worker.amqp.topology import ACTIONS, RETURN
from worker.observability import tracing
from worker.observability.failpoints import failpoint
from worker.observability.tracing import Kind, Tracer
from worker.outbox import actions as table
from worker.postgres.notify_poller import NotifyPoller
from worker.postgres.pool import Database

# The number of actions per kind in the queue. The queue is first in, first out, so a kind with thousands of
# actions and a low rate limit waits in the table, and does not delay other kinds.
AT_ONCE = 8


@dataclass(slots=True)
class Relay:
    """Several may run. A crash before the commit publishes an action again; it is performed once.

    An action may be published before its row is durable: without the row, its message starts nothing.
    """

    database: Database
    publisher: Publisher
    stopping: asyncio.Event

    async def run(self) -> None:
        """Publish until shutdown, however often broker and database are unavailable."""
        await NotifyPoller(
            "actions",
            table.CHANNEL,
            self._publish_some,
            self.database,
            self.stopping,
            unavailable=(BrokerUnavailable,),
        ).run()

    async def _publish_some(self) -> bool:
        """Publish some due actions; True if more may be left.

        Raises:
            DatabaseUnavailable
            BrokerUnavailable: Some may have been published.
            Unroutable
        """
        async with self.database.transaction() as connection:
            due = await table.to_publish(connection, KINDS, AT_ONCE)
            if not due:
                return False
            tracer = tracing.active()
            contexts = await asyncio.gather(*(self._publish(row, tracer) for row in due))
            failpoint("action_published")
            published = [row["action_id"] for row in due]
            await table.note_published(connection, dict(zip(published, contexts, strict=True)))
        return len(due) >= AT_ONCE

    async def _publish(self, row: Mapping[str, Any], tracer: Tracer | None) -> str | None:
        """Publish in a trace of its own, which retries continue; return its `traceparent` if it is recorded.

        It is linked to the event that caused the action, and to the trace from before a person retried it.

        Raises as `Publisher.publish` does.
        """
        made = message(row["action_id"], row["kind"], row["traceparent"])
        if tracer is None:
            await self.publisher.publish(made)
            return None
        before = map(read_traceparent, (row["traceparent"], row["published_traceparent"]))
        links = [context for context in before if context is not None]
        name, attributes = sent(made, str(row["action_id"]))
        with tracer.span(name, Kind.PRODUCER, attributes, links=links) as span:
            await self.publisher.publish(with_headers(made, span.context.headers))
            return span.context.traceparent if span.context.is_sampled else None


def message(action_id: UUID, kind: str, traceparent: str | None = None) -> Message:
    """The message names the action. The request stays in the table.

    `traceparent`: of the event that caused the action.
    """
    headers: dict[str, str | int] = {"x-action-id": str(action_id), "x-attempt": 1}
    if traceparent is not None:
        headers[TRACEPARENT] = traceparent
    body = orjson.dumps({"action_id": str(action_id), "kind": kind})
    return Message(RETURN, main_queue(ACTIONS), kind, headers, body)
