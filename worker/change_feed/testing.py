"""Tests one subscriber over HTTP: an event that only it receives, signed and retried like a change."""

from datetime import UTC, datetime
from uuid import uuid4

from schemas.changes import CONTENT_TYPE, event_for_test
from worker.amqp.channel import Message
from worker.amqp.connection import Broker
from worker.amqp.errors import Unroutable
from worker.amqp.queue_set import main_queue
from worker.amqp.topology import RETURN
from worker.change_feed.backlog import known_webhooks
from worker.config.settings import Settings
from worker.config.subscribers import origin_of
from worker.observability.errors import StockhookError
from worker.postgres.operator_audit import record
from worker.postgres.pool import Database

PUBLISH_SECONDS = 10.0

TEST_SENT = "webhook.test_sent"


class NotSent(StockhookError):
    """The text says why. Nothing was published."""


async def send_test(
    broker: Broker, database: Database, settings: Settings, name: str, who: str, reason: str | None
) -> str:
    """Publish a test event to the queue of this subscriber, and record it; return its `webhook-id`.

    It goes past the outbox and the exchange of the change feed: it is not counted as a change, and has no
    sequence number.

    Raises:
        NotSent: There is no such subscriber, or it has no queue.
        BrokerUnavailable: The test event may have been published.
        DatabaseUnavailable: As above.
    """
    async with database.transaction() as connection:
        names = sorted({*await known_webhooks(connection), *settings.webhook_names})
        if name not in names:
            raise NotSent(f"there is no subscriber {name}, but {', '.join(names) or 'none at all'}")
        event = event_for_test(uuid4(), datetime.now(UTC))
        await record(connection, who, TEST_SENT, name, reason)
        queue = main_queue(origin_of(name))
        headers = {"x-change-id": event.change_id, "x-subject": event.subject}
        message = Message(RETURN, queue, event.type, headers, event.body, CONTENT_TYPE)
        async with broker.connection() as broker_connection:
            channel = await broker_connection.channel()
            try:
                await channel.publish(message, PUBLISH_SECONDS)
            except Unroutable:
                raise NotSent(
                    f"{name} has no queue {queue}: consumers with it in STOCKHOOK_CHANGES_WEBHOOKS, or "
                    "`stockhook topology`, declare it"
                ) from None
    return event.change_id
