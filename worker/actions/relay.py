"""Publishes the actions that are due to their queue, and notes it once that is confirmed."""

import asyncio
from dataclasses import dataclass
from uuid import UUID

import orjson

from worker.actions.registry import KINDS
from worker.amqp.channel import Message
from worker.amqp.errors import BrokerUnavailable
from worker.amqp.publisher import Publisher
from worker.amqp.queue_set import main_queue
from worker.amqp.topology import ACTIONS, RETURN
from worker.observability.failpoints import failpoint
from worker.outbox import actions as table
from worker.postgres.notify_poller import NotifyPoller
from worker.postgres.pool import Database

# Of one kind in the queue at a time. It is first come, first served there, so that a kind of which there
# are thousands, and few a second are allowed, must wait in the table and leave the queue to others.
AT_ONCE = 8


@dataclass(slots=True)
class Relay:
    """One of any number. A crash before the commit publishes the same again; it is done once all the same."""

    database: Database
    publisher: Publisher
    stopping: asyncio.Event

    async def run(self) -> None:
        """Publish until we stop, whatever happens to broker and database meanwhile."""
        await NotifyPoller(
            "actions",
            table.CHANNEL,
            self._publish_some,
            self.database,
            self.stopping,
            unavailable=(BrokerUnavailable,),
        ).run()

    async def _publish_some(self) -> int:
        """Say how many.

        Raises:
            DatabaseUnavailable
            BrokerUnavailable: Some may have been published.
            Unroutable
        """
        async with self.database.transaction() as connection:
            due = await table.to_publish(connection, KINDS, AT_ONCE)
            if not due:
                return 0
            await asyncio.gather(
                *(self.publisher.publish(message(row["action_id"], row["kind"])) for row in due)
            )
            failpoint("action_published")
            await table.note_published(connection, [row["action_id"] for row in due])
        return len(due)


def message(action_id: UUID, kind: str) -> Message:
    """It names the action and says nothing of what is asked for, which stays in the table."""
    headers: dict[str, str | int] = {"x-action-id": str(action_id), "x-attempt": 1}
    body = orjson.dumps({"action_id": str(action_id), "kind": kind})
    return Message(RETURN, main_queue(ACTIONS), kind, headers, body)
