"""A delivery is acknowledged after the commit, and after the confirm of its copy."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from consumers.registry import FAMILIES
from schemas.envelope import Envelope
from schemas.registry import Provider
from worker.amqp.channel import Message
from worker.amqp.connection import Broker
from worker.amqp.errors import BrokerUnavailable
from worker.amqp.tap import Delivery
from worker.config.settings import Settings
from worker.pipeline.consumer import AppliedBatch, Consumer
from worker.pipeline.decode import InvalidDelivery
from worker.pipeline.outcome import Applied, BatchFailed, Failed, Report
from worker.pipeline.turns import Turn


@dataclass
class Journal:
    """Replaces broker and database, and records calls in order."""

    failures: int = 0
    happened: list[str] = field(default_factory=list)

    async def publish(self, message: Message) -> None:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            self.happened.append("not confirmed")
            raise BrokerUnavailable("as the test wants it")
        self.happened.append(f"confirmed {message.routing_key}")

    async def ack_up_to(self, tag: int) -> None:
        self.happened.append(f"ack {tag}")

    def transaction(self) -> "Journal":
        return self

    async def __aenter__(self) -> "Journal":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.happened.append("recorded")

    async def execute(self, *_: object) -> str:
        return "INSERT 0 1"

    async def consume(self, *_: object) -> None:
        self.happened.append("consume")

    async def ping(self) -> None:
        pass


def failed_delivery() -> InvalidDelivery:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    envelope = Envelope(
        provider=Provider.OVOKO,
        event_type="order.created",
        event_id=UUID(int=1),
        content_id=UUID(int=1),
        received_at=now,
        source=1,
        sequence_number=1,
    )
    delivery = Delivery(7, "ovoko.order.created", envelope.to_headers(), b"{}", redelivered=False)
    return InvalidDelivery(delivery, "broken")


async def settle(journal: Journal) -> None:
    parts: Any = journal
    consumer = Consumer(
        FAMILIES["orders"], Settings(), Broker("", ""), parts, parts, parts, asyncio.Event(), asyncio.Lock()
    )
    batch = AppliedBatch([failed_delivery()], Report((Failed(ValueError()),)), 0.0)
    await consumer._settle(consumer.subscription.new_session(parts, ""), batch, None)


async def test_a_session_that_has_ended_is_not_subscribed_again() -> None:
    """After a failure in a batch, deliveries would arrive that nothing processes."""
    parts: Any = Journal()
    consumer = Consumer(
        FAMILIES["orders"], Settings(), Broker("", ""), parts, parts, parts, asyncio.Event(), asyncio.Lock()
    )
    session = consumer.subscription.new_session(parts, "")
    session.end()
    await session.subscribe()

    assert parts.happened == []


async def test_the_ack_follows_the_confirm_of_the_copy_and_its_record() -> None:
    journal = Journal()
    await settle(journal)

    assert journal.happened == ["confirmed stockhook.orders.retry.7s", "recorded", "ack 7"]


async def test_a_copy_that_is_not_confirmed_is_published_again_before_the_ack() -> None:
    journal = Journal(failures=2)
    await settle(journal)

    assert journal.happened == [
        "not confirmed",
        "not confirmed",
        "confirmed stockhook.orders.retry.7s",
        "recorded",
        "ack 7",
    ]


async def test_a_batch_that_fails_is_not_tried_again_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that hangs takes 8 s each time."""
    sizes: list[int] = []

    async def fail_unless_single(*arguments: Any, **_: object) -> Report:
        batch = arguments[2]
        sizes.append(len(batch))
        if len(batch) > 1:
            raise BatchFailed
        return Report((Applied(),))

    monkeypatch.setattr("worker.pipeline.consumer.apply_batch", fail_unless_single)
    parts: Any = Journal()
    consumer = Consumer(
        FAMILIES["orders"], Settings(), Broker("", ""), parts, parts, parts, asyncio.Event(), asyncio.Lock()
    )
    session = consumer.subscription.new_session(parts, "")
    await consumer._process(session, [failed_delivery(), failed_delivery()], Turn(None))

    assert sizes == [2, 1, 1]
