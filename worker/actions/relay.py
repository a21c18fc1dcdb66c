"""Publishes due actions to their queue, and records each once the broker has confirmed it."""

import asyncio
from dataclasses import dataclass
from uuid import UUID

import orjson

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

    async def _publish_some(self) -> int:
        """Publish some due actions and return their number.

        Raises:
            DatabaseUnavailable
            BrokerUnavailable: Some may have been published.
            Unroutable
        """
        async with self.database.transaction() as connection:
            due = await table.to_publish(connection, KINDS, AT_ONCE)
            if not due:
                return 0
            tracer = tracing.active()
            await asyncio.gather(
                *(self._publish(message(row["action_id"], row["kind"]), tracer) for row in due)
            )
            failpoint("action_published")
            await table.note_published(connection, [row["action_id"] for row in due])
        return len(due)

    async def _publish(self, message: Message, tracer: Tracer | None) -> None:
        """Each action has a trace, which its retries continue. Raises as `Publisher.publish` does."""
        if tracer is None:
            await self.publisher.publish(message)
            return
        name, attributes = sent(message, str(message.headers["x-action-id"]))
        with tracer.span(name, Kind.PRODUCER, attributes) as span:
            await self.publisher.publish(with_headers(message, span.context.headers))


def message(action_id: UUID, kind: str) -> Message:
    """The message names the action. The request stays in the table."""
    headers: dict[str, str | int] = {"x-action-id": str(action_id), "x-attempt": 1}
    body = orjson.dumps({"action_id": str(action_id), "kind": kind})
    return Message(RETURN, main_queue(ACTIONS), kind, headers, body)
