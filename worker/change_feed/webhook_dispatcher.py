"""Delivers changes to one subscriber over HTTP: its own queue, its own retry queues and circuit breaker."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import structlog

from schemas.changes import CONTENT_TYPE
from worker.amqp.channel import Channel, Message
from worker.amqp.connection import Broker, reconnect_forever
from worker.amqp.errors import BrokerUnavailable, Unroutable
from worker.amqp.publisher import Publisher, publish_until_confirmed
from worker.amqp.tap import Delivery
from worker.amqp.topology import (
    RETURN,
    dead_queue,
    family_queue,
    retry_queue,
    webhook_topology,
)
from worker.amqp.watchdog import WATCHDOG_SECONDS, watch_channel
from worker.change_feed.backlog import NOTE_WEBHOOK
from worker.change_feed.endpoint import Gone, NotDelivered, Target
from worker.change_feed.relay import waves
from worker.config.settings import Settings
from worker.config.subscribers import Subscriber
from worker.observability import metrics
from worker.observability.backoff import ShutdownRequested, retry_until_available, sleep_unless_stopping
from worker.observability.failpoints import failpoint
from worker.pipeline.circuit_breaker import CircuitBreaker
from worker.pipeline.retry_schedule import Exhausted, Retry, after_failure
from worker.postgres.pool import Database, DatabaseUnavailable, blameless

log = structlog.get_logger(__name__)

# At a time: a slow endpoint holds up no more than these, and nobody else's.
PREFETCH = 10

# The relay's id of a change: the id of its batch, and its place in the batch.
_CHANGE_ID = re.compile(r"[0-9a-f-]{36}\.[0-9]{1,10}")


class NoChange(NotDelivered):
    """A message that the relay did not publish: nothing is posted."""


@dataclass(slots=True)
class WebhookDispatcher:
    """At least once: a crash between an answer and the ack delivers again, under the same `webhook-id`."""

    subscriber: Subscriber
    settings: Settings
    broker: Broker
    database: Database
    publisher: Publisher
    stopping: asyncio.Event
    _breaker: CircuitBreaker = field(default_factory=CircuitBreaker)

    async def run(self) -> None:
        """Deliver until we stop, whatever happens to broker and endpoint meanwhile."""
        metrics.begin_webhook(self.subscriber.name)
        proxy = self.settings.changes_proxy
        target = Target.of(
            self.subscriber.url,
            self.subscriber.key,
            connections=PREFETCH,
            allow_private=self.settings.changes_private_targets,
            proxy=None if proxy is None else proxy.get_secret_value(),
        )
        try:
            await reconnect_forever(self.subscriber.origin, partial(self._session, target), self.stopping)
        finally:
            await target.close()

    async def _note(self) -> None:
        """So that it is known of, should it be taken out of the settings."""
        async with self.database.transaction() as connection:
            await connection.execute(NOTE_WEBHOOK, self.subscriber.name)

    async def _session(self, target: Target) -> None:
        await retry_until_available(
            lambda: blameless(self._note()), DatabaseUnavailable, self.stopping, longest_pause=2
        )
        arrived: asyncio.Queue[Delivery | None] = asyncio.Queue()
        async with self.broker.connection() as link:
            delays, origin = self.settings.delays, self.subscriber.origin
            expected = webhook_topology(delays, origin, self.subscriber.routing_keys)
            channel = await link.channel_with(expected, declares=self.settings.declare_topology)
            channel.on_cancelled(partial(arrived.put_nowait, None))
            await channel.consume(family_queue(origin), origin, PREFETCH, arrived.put_nowait)
            watch = asyncio.create_task(self._end_when_lost(channel, arrived))
            with suppress(ShutdownRequested, BrokerUnavailable, Unroutable):
                await self._work(channel, target, arrived)
            watch.cancel()

    async def _end_when_lost(self, channel: Channel, arrived: asyncio.Queue[Delivery | None]) -> None:
        try:
            is_subscribed = partial(channel.is_subscribed, family_queue(self.subscriber.origin))
            await watch_channel(channel, self.stopping, WATCHDOG_SECONDS, is_subscribed)
        finally:
            arrived.put_nowait(None)

    async def _work(self, channel: Channel, target: Target, arrived: asyncio.Queue[Delivery | None]) -> None:
        while (delivery := await arrived.get()) is not None:
            batch = [delivery]
            while not self._breaker.is_open and len(batch) < PREFETCH and not arrived.empty():
                another = arrived.get_nowait()
                if another is None:
                    return
                batch.append(another)
            await sleep_unless_stopping(self._breaker.pause_seconds, self.stopping)
            if self.stopping.is_set():
                return
            await self._deliver_all(channel, target, batch)

    async def _deliver_all(self, channel: Channel, target: Target, batch: Sequence[Delivery]) -> None:
        for wave in waves(batch, lambda delivery: str(delivery.headers.get("x-subject"))):
            posts = (self._deliver(channel, target, delivery) for delivery in wave)
            # All are waited for: a post that went on would be overtaken by the next session's.
            for result in await asyncio.gather(*posts, return_exceptions=True):
                if result is not None:
                    raise result
        failpoint("change_delivered")
        await channel.ack_up_to(batch[-1].tag)

    async def _deliver(self, channel: Channel, target: Target, delivery: Delivery) -> None:
        """Deliver it, or publish a copy to its next queue; hold it until that is confirmed.

        Raises as `publish_until_confirmed` does.
        """
        name = self.subscriber.name
        try:
            await target.post(_change_id_of(delivery), delivery.body)
        except NotDelivered as failure:
            if not isinstance(failure, NoChange):
                self._breaker.failed()
            copy = self._copy(delivery, failure)
            is_dead = copy.routing_key == dead_queue(self.subscriber.origin)
            metrics.WEBHOOKS.labels(name, "dead" if is_dead else "failed").inc()
            log.warning("webhook.failed", subscriber=name, to=copy.routing_key, reason=str(failure))
            await publish_until_confirmed(self.publisher, copy, self.stopping, channel)
        else:
            self._breaker.succeeded()
            metrics.WEBHOOKS.labels(name, "delivered").inc()

    def _copy(self, delivery: Delivery, failure: NotDelivered) -> Message:
        origin, now = self.subscriber.origin, datetime.now(UTC).isoformat()
        attempt = _attempt_of(delivery.headers)
        step = after_failure(attempt, self.settings.delays)
        if isinstance(failure, Gone | NoChange):
            step = Exhausted()
        match step:
            case Retry(delay, next_attempt):
                queue, attempt = retry_queue(origin, delay), next_attempt
            case Exhausted():
                queue = dead_queue(origin)
        headers: dict[str, str | int] = {
            "x-change-id": str(delivery.headers.get("x-change-id", "")),
            "x-subject": str(delivery.headers.get("x-subject", "")),
            "x-first-failed-at": str(delivery.headers.get("x-first-failed-at", now)),
            "x-last-failed-at": now,
            "x-attempt": attempt,
            "x-reason": str(failure),
        }
        return Message(RETURN, queue, delivery.type, headers, delivery.body, CONTENT_TYPE)


def _change_id_of(delivery: Delivery) -> str:
    """Raises: NoChange."""
    told = delivery.headers.get("x-change-id")
    if isinstance(told, str) and _CHANGE_ID.fullmatch(told):
        return told
    raise NoChange("not a change: its x-change-id is missing or cannot be read")


def _attempt_of(headers: Mapping[str, object]) -> int:
    told = headers.get("x-attempt")
    return told if isinstance(told, int) and told > 0 else 1
