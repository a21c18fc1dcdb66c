"""While the broker confirms nothing, processes hold the deliveries whose copies they would publish.

A release counts towards the broker's delivery limit: an outage causes at most one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from consumers.registry import FAMILIES
from tests.unit.test_settling import Journal, failed_delivery
from worker.actions.executor import Executor
from worker.amqp.connection import Broker
from worker.amqp.errors import BrokerUnavailable
from worker.amqp.subscription import Subscription
from worker.amqp.tap import Delivery
from worker.change_feed.endpoint import NotDelivered
from worker.change_feed.webhook_dispatcher import WebhookDispatcher
from worker.config.settings import Settings
from worker.config.subscribers import Subscriber
from worker.dead_letters.archiver import Archiver
from worker.pipeline.consumer import Consumer

FAILURES = 3


@dataclass
class Channel(Journal):
    """A broker that accepts acks, but confirms nothing."""

    unready: int = 0
    is_open: bool = True

    async def close(self) -> None:
        self.happened.append("closed")

    async def must_be_ready(self) -> None:
        self.happened.append("not ready" if self.unready else "ready")
        if self.unready:
            self.unready -= 1
            raise BrokerUnavailable("not connected")

    async def ack(self, tag: int) -> None:
        await self.ack_up_to(tag)

    async def cancel_consumers(self) -> None:
        pass


class FailingTarget:
    async def post(self, *_: object) -> None:
        raise NotDelivered("it answered 500")


async def requeue(subscription: Subscription[Any], journal: Any, queue: str) -> None:
    session = subscription.new_session(journal, "")
    session._put(failed_delivery().delivery._replace(queue=queue))
    await session.requeue_held()


async def family(journal: Any) -> None:
    consumer = Consumer(
        FAMILIES["orders"], Settings(), Broker("", ""), *[journal] * 3, asyncio.Event(), asyncio.Lock()
    )
    await requeue(consumer.subscription, journal, "stockhook.orders")


async def dead_letters(journal: Any) -> None:
    archiver = Archiver(("orders",), Settings(), Broker("", ""), journal, journal, asyncio.Event())
    await requeue(archiver.subscription, journal, "stockhook.orders.dead")


async def webhook(journal: Any) -> None:
    subscriber = Subscriber(
        name="shop", url="https://shop.example/hooks", types=("#",), secret="whsec_" + "A" * 32
    )
    dispatcher = WebhookDispatcher(subscriber, Settings(), Broker("", ""), journal, journal, asyncio.Event())
    delivery = Delivery(
        7, "stockhook.part.sold", {"x-change-id": f"{UUID(int=1)}.0", "x-subject": "part/1"}, b"{}", False
    )
    target: Any = FailingTarget()
    session = dispatcher.subscription.new_session(journal, "")
    await dispatcher._deliver_all(session, target, [delivery])


async def actions(journal: Any) -> None:
    executor = Executor(Settings(), Broker("", ""), journal, journal, asyncio.Event())
    clients: Any = None
    session = executor.subscription.new_session(journal, "")
    await executor._settle(clients, session, None, Delivery(7, "", {}, b"?", False))


@pytest.mark.parametrize(
    ("settle", "queue"),
    [
        (family, "stockhook.orders"),
        (dead_letters, "stockhook.orders.dead"),
        (webhook, "stockhook.webhook.shop.retry.7s"),
        (actions, ""),
    ],
    ids=["family", "dead letters", "webhook", "actions"],
)
async def test_a_delivery_is_held_until_its_copy_is_confirmed(
    settle: Callable[[Any], Awaitable[None]], queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Even if the hold limit for other reasons is short.
    monkeypatch.setattr("worker.amqp.subscription.LONGEST_HOLD_SECONDS", 0.0)
    journal = Channel(failures=FAILURES)
    await settle(journal)

    assert journal.happened == [*["not confirmed"] * FAILURES, f"confirmed {queue}", "ack 7"]


@pytest.mark.parametrize("settle", [family, dead_letters, webhook, actions])
async def test_a_delivery_released_before_the_consumer_timeout_waits_until_the_broker_confirms_again(
    settle: Callable[[Any], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.amqp.publisher.LONGEST_UNCONFIRMED_SECONDS", 0.0)
    journal = Channel(failures=1, unready=2)

    with pytest.raises(BrokerUnavailable):
        await settle(journal)
    assert journal.happened == ["not confirmed", "closed", "not ready", "not ready", "ready"]
