"""Delivers changes to one subscriber over HTTP, with its own queue, retries and circuit breaker."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from urllib.parse import urlsplit

import structlog

from schemas.changes import CONTENT_TYPE
from schemas.trace_context import passed_headers, read_context
from worker.amqp.channel import Message
from worker.amqp.connection import Broker
from worker.amqp.publisher import Publisher
from worker.amqp.queue_set import QueueSet
from worker.amqp.subscription import Session, Subscription, requeue_copy
from worker.amqp.tap import Delivery
from worker.amqp.topology import webhook_topology
from worker.change_feed.backlog import NOTE_WEBHOOK
from worker.change_feed.endpoint import Endpoint, Gone, NotDelivered
from worker.change_feed.relay import waves
from worker.config.settings import Settings
from worker.config.subscribers import Subscriber
from worker.config.urls import port_of
from worker.observability import metrics, tracing
from worker.observability.failpoints import failpoint
from worker.observability.tracing import Kind, Tracer
from worker.pipeline.circuit_breaker import CircuitBreaker
from worker.pipeline.decode import attempt_in
from worker.pipeline.retry_schedule import Exhausted, after_failure, copy_after, failure_times
from worker.postgres.failures import DatabaseUnavailable, blameless
from worker.postgres.pool import Database

log = structlog.get_logger(__name__)

# Deliveries in flight. A slow endpoint delays no other subscriber.
PREFETCH = 10

# The relay's id of a change: the id of its batch, and its position in the batch.
_CHANGE_ID = re.compile(r"[0-9a-f-]{36}\.[0-9]{1,10}")


class NotAChange(NotDelivered):
    """A message that the relay did not publish is not posted."""


@dataclass(slots=True)
class WebhookDispatcher:
    """At least once: a crash between a response and the ack delivers again, under the same `webhook-id`."""

    subscriber: Subscriber
    settings: Settings
    broker: Broker
    database: Database
    publisher: Publisher
    stopping: asyncio.Event
    subscription: Subscription[Delivery] = field(init=False)
    _queues: QueueSet = field(init=False)
    _circuit_breaker: CircuitBreaker = field(default_factory=CircuitBreaker)

    def __post_init__(self) -> None:
        self._queues = QueueSet.of(self.subscriber.origin, self.settings.delays)
        self.subscription = Subscription(
            self.subscriber.origin,
            [self._queues.main],
            webhook_topology(self._queues, self.subscriber.routing_keys),
            self.settings.declare_topology,
            self.broker,
            self.publisher,
            self.stopping,
            prerequisite=lambda: blameless(self._note_subscriber()),
            outages=(DatabaseUnavailable,),
            read=lambda delivery: delivery,
            prefetch=lambda: PREFETCH,
            copy_to_requeue=partial(requeue_copy, content_type=CONTENT_TYPE),
        )

    async def run(self) -> None:
        """Deliver until shutdown, however often broker and endpoint are unavailable."""
        metrics.initialize_webhook(self.subscriber.name)
        metrics.WEBHOOK_CIRCUIT_OPEN.labels(self.subscriber.name).set_function(
            lambda: self._circuit_breaker.is_open
        )
        proxy = self.settings.changes_proxy
        endpoint = Endpoint.of(
            self.subscriber.url,
            self.subscriber.keys,
            connections=PREFETCH,
            allow_private=self.settings.changes_private_targets,
            proxy=None if proxy is None else proxy.get_secret_value(),
        )
        try:
            await self.subscription.run(partial(self._work, endpoint))
        finally:
            await endpoint.close()

    async def _note_subscriber(self) -> None:
        """Record the name, so that its queues are found after it is removed from the settings."""
        async with self.database.transaction() as connection:
            await connection.execute(NOTE_WEBHOOK, self.subscriber.name)

    async def _work(self, endpoint: Endpoint, session: Session[Delivery]) -> None:
        while batch := await session.receive(1 if self._circuit_breaker.is_open else PREFETCH):
            if self._circuit_breaker.is_open:
                await session.pause(self._circuit_breaker.pause_seconds)
            await self._deliver_all(session, endpoint, batch)

    async def _deliver_all(
        self, session: Session[Delivery], endpoint: Endpoint, batch: Sequence[Delivery]
    ) -> None:
        tracer = tracing.active()
        for wave in waves(batch, lambda delivery: str(delivery.headers.get("x-subject"))):
            posts = (self._deliver(session, endpoint, delivery, tracer) for delivery in wave)
            # Wait for all of them: the next session could overtake a post that is still under way.
            for result in await asyncio.gather(*posts, return_exceptions=True):
                if result is not None:
                    raise result
        failpoint("change_delivered")
        await session.ack_up_to(batch[-1])

    async def _deliver(
        self, session: Session[Delivery], endpoint: Endpoint, delivery: Delivery, tracer: Tracer | None
    ) -> None:
        """Post a change, or publish a copy to its next queue and wait for the confirm.

        Raises as `Session.publish` does.
        """
        name = self.subscriber.name
        try:
            status = await self._post(endpoint, delivery, tracer)
        except NotDelivered as failure:
            if not isinstance(failure, NotAChange):
                self._circuit_breaker.failed()
                _note_answer(name, failure.status)
            copy = copy_after_failure(self._queues, delivery, failure, datetime.now(UTC))
            is_dead = copy.routing_key == self._queues.dead
            metrics.WEBHOOKS.labels(name, "dead" if is_dead else "failed").inc()
            log.warning("webhook.failed", subscriber=name, to=copy.routing_key, reason=str(failure))
            await session.publish(copy)
        else:
            self._circuit_breaker.succeeded()
            _note_answer(name, status)
            metrics.WEBHOOKS.labels(name, "delivered").inc()

    async def _post(self, endpoint: Endpoint, delivery: Delivery, tracer: Tracer | None) -> int:
        """Raises: NotDelivered."""
        change_id = _change_id_of(delivery)
        context = read_context(delivery.headers)
        if tracer is None or context is None:
            return await endpoint.post(change_id, delivery.body, {} if context is None else context.headers)
        attributes: dict[str, str | int] = {
            "http.request.method": "POST",
            "server.address": urlsplit(self.subscriber.url).hostname or "",
            "server.port": port_of(self.subscriber.url),
            "stockhook.subscriber": self.subscriber.name,
            "stockhook.change_id": change_id,
            "stockhook.attempt": attempt_in(delivery),
        }
        name = f"POST {self.subscriber.origin}"
        with tracer.span(name, Kind.CLIENT, attributes, parent=context) as span:
            try:
                status = await endpoint.post(change_id, delivery.body, span.context.headers)
            except NotDelivered as failure:
                if failure.status is not None:
                    span.set("http.response.status_code", failure.status)
                raise
            span.set("http.response.status_code", status)
            return status


def _note_answer(subscriber: str, status: int | None) -> None:
    # An endpoint must not be able to make a series per answer.
    label = "none" if status is None else str(status) if 100 <= status < 600 else "other"
    metrics.WEBHOOK_ANSWERS.labels(subscriber, label).inc()
    metrics.WEBHOOK_ANSWERED_AT.labels(subscriber, label).set_to_current_time()


def copy_after_failure(queues: QueueSet, delivery: Delivery, failure: NotDelivered, now: datetime) -> Message:
    """The copy for the next retry queue, or for the dead letters."""
    attempt = attempt_in(delivery)
    is_final = isinstance(failure, Gone | NotAChange)
    step = Exhausted(attempt) if is_final else after_failure(attempt, queues.retries)
    headers = {
        "x-change-id": str(delivery.headers.get("x-change-id", "")),
        "x-subject": str(delivery.headers.get("x-subject", "")),
        **passed_headers(delivery.headers),
        **failure_times(delivery, now),
    }
    return copy_after(step, queues, delivery, headers, str(failure), CONTENT_TYPE)


def _change_id_of(delivery: Delivery) -> str:
    """Raises: NotAChange."""
    change_id = delivery.headers.get("x-change-id")
    if isinstance(change_id, str) and _CHANGE_ID.fullmatch(change_id):
        return change_id
    raise NotAChange("not a change: its x-change-id is missing or cannot be read")
