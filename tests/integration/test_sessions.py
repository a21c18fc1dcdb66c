"""How sessions end: at the hold limit, at their age limit, and at a pause. None of them costs an attempt.

An outage that is longer than the hold limit costs no delivery of the broker's limit. A message whose ack the
broker lost is delivered again after the age limit.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from consumers.registry import FAMILIES
from deploy.local.services import Services
from schemas.actions import ActionRequest
from schemas.changes import CONTENT_TYPE
from schemas.envelope import Envelope
from schemas.registry import Provider
from tests.support.applied_events import database_of
from tests.support.endpoint import endpoint
from tests.support.events import body, return_updated
from tests.support.fault_sql import REMOVE_FAULT, fail_writes
from tests.support.signing import SECRET
from tests.support.stack import Stack, until
from worker.actions.executor import Executor
from worker.actions.registry import KINDS
from worker.actions.relay import message as action_message
from worker.actions.types import Done, Kind
from worker.amqp.buffer import PrefetchBuffer
from worker.amqp.channel import Channel, Message
from worker.amqp.publisher import Publisher
from worker.amqp.subscription import LONGEST_HOLD_SECONDS, Subscription
from worker.amqp.tap import Delivery
from worker.amqp.topology import DELIVERY_LIMIT, RETURN, topology
from worker.change_feed.webhook_dispatcher import WebhookDispatcher
from worker.config.subscribers import Subscriber
from worker.dead_letters.archiver import Archiver
from worker.observability.ops_server import Intended
from worker.outbox import actions as table
from worker.pipeline.circuit_breaker import THRESHOLD
from worker.pipeline.consumer import Consumer
from worker.postgres.durability import Flusher
from worker.postgres.pool import Database

HOLD_SECONDS = 0.1
SESSION_SECONDS = 0.5
MESSAGES = 3
MANY_MESSAGES = 400
SHOP = Subscriber(name="shop", url="http://127.0.0.1/", types=("part.*",), secret=SECRET)

# The server answers and accepts other writes, so each session subscribes.
DISK_FULL = "53100"


@dataclass
class Parts:
    """The parts of a consumer."""

    stack: Stack
    database: Database
    flusher: Flusher
    publisher: Publisher
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Waiting:
    """A consumer during an outage, and the messages that arrive meanwhile."""

    subscription: Subscription[Any]
    run: Callable[[], Awaitable[None]]
    messages: list[Message]
    recover: Callable[[], Awaitable[None]]
    are_settled: Callable[[], Awaitable[bool]]


def returned(number: int, queue: str = "stockhook.returns", **headers: str) -> Message:
    envelope = Envelope(
        provider=Provider.OVOKO,
        event_type="order.return.updated",
        event_id=UUID(int=number),
        content_id=UUID(int=number),
        received_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
    )
    return Message(
        RETURN,
        queue,
        "ovoko.order.return.updated",
        {**envelope.to_headers(), **headers},
        body(return_updated(number)),
    )


@asynccontextmanager
async def disk_full(stack: Stack, table_name: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Writes to a table fail until the yielded function is called."""

    async def free() -> None:
        await stack.execute(REMOVE_FAULT)

    await stack.execute(fail_writes(table_name, sqlstate=DISK_FULL))
    try:
        yield free
    finally:
        await free()


def consumer_of_returns(parts: Parts) -> Consumer:
    stack = parts.stack
    return Consumer(
        FAMILIES["returns"],
        stack.settings,
        stack.broker,
        parts.database,
        parts.flusher,
        parts.publisher,
        parts.stopping,
        asyncio.Lock(),
    )


@asynccontextmanager
async def family(parts: Parts) -> AsyncIterator[Waiting]:
    stack = parts.stack
    consumer = consumer_of_returns(parts)
    consumer._isolation.is_active = False

    async def are_settled() -> bool:
        rows = await stack.fetch("SELECT attempt FROM event_log")
        return [row["attempt"] for row in rows] == [1] * MESSAGES

    async with disk_full(stack, "event_log") as free:
        messages = [returned(number) for number in range(MESSAGES)]
        yield Waiting(consumer.subscription, consumer.run, messages, free, are_settled)


@asynccontextmanager
async def actions(parts: Parts) -> AsyncIterator[Waiting]:
    stack = parts.stack
    executor = Executor(stack.settings, stack.broker, parts.database, parts.publisher, parts.stopping)
    messages = []
    async with parts.database.transaction() as connection:
        for number in range(MESSAGES):
            action_id = await table.enqueue(
                connection, "test", f"key {number}", "subject", b"{}", is_encrypted=False
            )
            assert action_id is not None
            messages.append(action_message(action_id, "test"))

    async def are_settled() -> bool:
        rows = await stack.fetch("SELECT state, attempts FROM actions")
        return [(row["state"], row["attempts"]) for row in rows] == [("done", 1)] * MESSAGES

    async with disk_full(stack, "actions") as free:
        yield Waiting(executor.subscription, executor.run, messages, free, are_settled)


@asynccontextmanager
async def dead_letters(parts: Parts) -> AsyncIterator[Waiting]:
    stack = parts.stack
    archiver = Archiver(
        ("returns",), stack.settings, stack.broker, parts.database, parts.publisher, parts.stopping
    )
    reasons = {"x-reason": "exhausted: it failed"}
    messages = [returned(number, "stockhook.returns.dead", **reasons) for number in range(MESSAGES)]

    async def are_settled() -> bool:
        rows = await stack.fetch("SELECT origin, reason, attempts FROM dead_letters")
        return [tuple(row.values()) for row in rows] == [("returns", reasons["x-reason"], 1)] * MESSAGES

    async with disk_full(stack, "dead_letters") as free:
        yield Waiting(archiver.subscription, archiver.run, messages, free, are_settled)


@asynccontextmanager
async def webhook(parts: Parts) -> AsyncIterator[Waiting]:
    """The circuit breaker is open after failures of the endpoint."""
    stack = parts.stack
    stack.environment["STOCKHOOK_CHANGES_PRIVATE_TARGETS"] = "true"
    monkeypatch = pytest.MonkeyPatch()
    async with endpoint(lambda _: 500) as shop:
        dispatcher = WebhookDispatcher(
            SHOP.model_copy(update={"url": shop.url}),
            stack.settings,
            stack.broker,
            parts.database,
            parts.publisher,
            parts.stopping,
        )
        dispatcher._circuit_breaker.failures = THRESHOLD
        monkeypatch.setattr("worker.pipeline.circuit_breaker.LONGEST_PAUSE_SECONDS", 1.5 * HOLD_SECONDS)

        async def recover() -> None:
            shop.behaviour = lambda _: 204
            # The circuit breaker closes after a probe, before which it pauses.
            monkeypatch.setattr("worker.amqp.subscription.LONGEST_HOLD_SECONDS", LONGEST_HOLD_SECONDS)

        async def are_settled() -> bool:
            return len(shop.taken) == MESSAGES

        messages = [
            Message(
                RETURN,
                "stockhook.webhook.shop",
                "stockhook.part.sold",
                {"x-change-id": f"{UUID(int=1)}.{number}", "x-subject": f"part/{number}"},
                b"{}",
                CONTENT_TYPE,
            )
            for number in range(MESSAGES)
        ]
        try:
            yield Waiting(dispatcher.subscription, dispatcher.run, messages, recover, are_settled)
        finally:
            monkeypatch.undo()
            for step in ("", ".retry.1s", ".retry.2s", ".retry.3s", ".dead"):
                await stack.delete_queue(f"stockhook.webhook.shop{step}")


async def done(_attempt: object) -> Done:
    return Done({})


@contextmanager
def recorded_deliveries(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Delivery]]:
    deliveries: list[Delivery] = []
    put = PrefetchBuffer.put

    def record_and_put(buffer: PrefetchBuffer[Delivery], delivery: Delivery) -> None:
        deliveries.append(delivery)
        put(buffer, delivery)

    with monkeypatch.context() as patch:
        patch.setattr(PrefetchBuffer, "put", record_and_put)
        yield deliveries


@pytest.fixture
async def parts(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Parts]:
    # Between two sessions.
    monkeypatch.setattr("worker.amqp.connection.LONGEST_PAUSE_SECONDS", HOLD_SECONDS)
    monkeypatch.setitem(KINDS, "test", Kind("test", ActionRequest, done))
    async with parts_of(stack) as made:
        yield made


@asynccontextmanager
async def parts_of(stack: Stack) -> AsyncIterator[Parts]:
    async with (
        database_of(stack) as database,
        Flusher(database) as flusher,
        Publisher(stack.broker, topology(stack.settings.delays), 10) as publisher,
    ):
        await publisher.wait_ready()
        yield Parts(stack, database, flusher, publisher)


@pytest.mark.parametrize("waiting", [family, actions, dead_letters, webhook])
async def test_an_outage_beyond_the_hold_limit_costs_no_delivery(
    parts: Parts,
    monkeypatch: pytest.MonkeyPatch,
    waiting: Callable[[Parts], AbstractAsyncContextManager[Waiting]],
) -> None:
    monkeypatch.setattr("worker.amqp.subscription.LONGEST_HOLD_SECONDS", HOLD_SECONDS)
    with recorded_deliveries(monkeypatch) as deliveries, capture_logs() as lines:
        async with waiting(parts) as consumer:
            running = asyncio.ensure_future(consumer.run())

            async def subscribed() -> bool:
                return consumer.subscription.unready_reason is None

            async def requeued_often() -> bool:
                return sum(line["event"] == "deliveries.requeued" for line in lines) > DELIVERY_LIMIT

            await until(subscribed, "it is subscribed")
            for message in consumer.messages:
                await parts.publisher.publish(message)
            await until(requeued_often, "its deliveries are requeued more often than they may be lost", 60)
            await consumer.recover()
            await until(consumer.are_settled, "each message is settled")
            parts.stopping.set()
            await running

    assert len(deliveries) > DELIVERY_LIMIT
    assert {delivery.headers.get("x-delivery-count", 0) for delivery in deliveries} == {0}
    assert {delivery.headers.get("x-attempt", 1) for delivery in deliveries} == {1}


async def test_pauses_of_a_family_cost_no_delivery(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """More often than a message may be lost, while it waits for the database."""
    monkeypatch.setattr("worker.amqp.subscription.FINISH_SECONDS", HOLD_SECONDS)
    consumer = consumer_of_returns(parts)
    consumer._isolation.is_active = False
    with recorded_deliveries(monkeypatch) as deliveries:
        async with disk_full(parts.stack, "event_log") as free:
            running = asyncio.create_task(consumer.run())

            async def holds_all() -> bool:
                return consumer.subscription.in_flight == MESSAGES

            async def has_no_session() -> bool:
                return consumer.subscription.session is None

            async def are_applied() -> bool:
                rows = await parts.stack.fetch("SELECT attempt FROM event_log")
                return [row["attempt"] for row in rows] == [1] * MESSAGES

            for number in range(MESSAGES):
                await parts.publisher.publish(returned(number))
            for _ in range(DELIVERY_LIMIT + 1):
                await until(holds_all, "all are delivered")
                consumer.switch.turn_off("a test")
                await until(has_no_session, "it has no session")
                assert await consumer.check() == Intended("a test")
                assert await parts.stack.depths() == {"stockhook.returns": MESSAGES}
                consumer.switch.turn_on()
            await free()
            await until(are_applied, "they are applied")
            parts.stopping.set()
            await running

    assert {delivery.headers.get("x-delivery-count", 0) for delivery in deliveries} == {0}
    assert {delivery.headers.get("x-attempt", 1) for delivery in deliveries} == {1}


async def test_while_postgres_is_away_nothing_is_held_beyond_the_hold_limit(
    parts: Parts, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.amqp.subscription.LONGEST_HOLD_SECONDS", HOLD_SECONDS)
    stack = parts.stack
    assert services.postgres is not None
    consumer = consumer_of_returns(parts)
    running = asyncio.create_task(consumer.run())

    async def subscribed() -> bool:
        return await consumer.check() is None

    async def are_requeued() -> bool:
        return (await stack.depths()).get("stockhook.returns") == MESSAGES

    async def are_applied() -> bool:
        return await stack.count("event_log") == MESSAGES

    await until(subscribed, "it is subscribed")
    services.postgres.kill()
    try:
        for number in range(MESSAGES):
            await parts.publisher.publish(returned(number))
        await until(are_requeued, "all are back in the queue")
    finally:
        await asyncio.to_thread(services.postgres.start)
    await until(are_applied, "they are applied")
    parts.stopping.set()
    await running


async def test_a_consumer_that_leaves_isolation_is_not_cancelled_while_it_holds_a_delivery(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ keeps what a cancelled consumer holds if its node is then cut off from the leader."""
    cancel_consumers = Channel.cancel_consumers
    held: list[int] = []
    consumer = consumer_of_returns(parts)

    async def note_and_cancel(channel: Channel) -> None:
        if not parts.stopping.is_set():
            held.append(consumer.subscription.in_flight)
        await cancel_consumers(channel)

    async def are_applied() -> bool:
        return await parts.stack.count("event_log") == MANY_MESSAGES

    monkeypatch.setattr(Channel, "cancel_consumers", note_and_cancel)
    for number in range(MANY_MESSAGES):
        await parts.publisher.publish(returned(number))
    with recorded_deliveries(monkeypatch) as deliveries:
        running = asyncio.ensure_future(consumer.run())
        await until(are_applied, "all are applied")
        parts.stopping.set()
        await running

    assert not any(held)
    assert len(deliveries) == MANY_MESSAGES


@contextmanager
def lost_acks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The broker receives no acks until the list is cleared, which the consumers do not notice."""
    lost: list[int] = [0]

    def losing(ack: Callable[[Channel, int], Awaitable[None]]) -> Callable[[Channel, int], Awaitable[None]]:
        async def lose_or_ack(channel: Channel, tag: int) -> None:
            if lost:
                lost.append(tag)
            else:
                await ack(channel, tag)

        return lose_or_ack

    with monkeypatch.context() as patch:
        patch.setattr(Channel, "ack", losing(Channel.ack))
        patch.setattr(Channel, "ack_up_to", losing(Channel.ack_up_to))
        yield lost


@pytest.mark.parametrize("waiting", [family, actions, dead_letters, webhook])
async def test_a_message_whose_ack_was_lost_leaves_the_queue_after_the_next_session(
    parts: Parts,
    monkeypatch: pytest.MonkeyPatch,
    waiting: Callable[[Parts], AbstractAsyncContextManager[Waiting]],
) -> None:
    monkeypatch.setattr("worker.amqp.subscription.LONGEST_SESSION_SECONDS", SESSION_SECONDS)
    monkeypatch.setattr("worker.amqp.connection.SHORT_SESSION_SECONDS", 0.0)
    with recorded_deliveries(monkeypatch) as deliveries, lost_acks(monkeypatch) as lost:
        async with waiting(parts) as consumer:
            await consumer.recover()
            running = asyncio.ensure_future(consumer.run())

            async def subscribed() -> bool:
                return consumer.subscription.unready_reason is None

            async def are_delivered_again() -> bool:
                return sum(delivery.redelivered for delivery in deliveries) >= MESSAGES

            async def no_message_is_left() -> bool:
                depths = await parts.stack.depths()
                return consumer.subscription.in_flight == 0 and set(depths.values()) <= {0}

            await until(subscribed, "it is subscribed")
            for message in consumer.messages:
                await parts.publisher.publish(message)
            await until(consumer.are_settled, "each message is settled")
            lost.clear()
            await until(are_delivered_again, "the broker delivers them again")
            await until(no_message_is_left, "they are acknowledged")
            parts.stopping.set()
            await running


async def test_no_delivery_is_repeated_when_a_session_ends_at_its_age_limit(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deliveries arrive, and are acknowledged, until the broker has cancelled the subscription."""
    cancel_consumers, close = Channel.cancel_consumers, PrefetchBuffer.close
    being_cancelled: list[Channel] = []
    closed_early: list[float] = []

    async def cancel_slowly(channel: Channel) -> None:
        being_cancelled.append(channel)
        await asyncio.sleep(SESSION_SECONDS / 4)
        await cancel_consumers(channel)
        being_cancelled.remove(channel)

    def note_and_close(buffer: PrefetchBuffer[Any]) -> None:
        if any(channel.has_consumers for channel in being_cancelled) and not parts.stopping.is_set():
            closed_early.append(monotonic())
        close(buffer)

    monkeypatch.setattr(Channel, "cancel_consumers", cancel_slowly)
    monkeypatch.setattr(PrefetchBuffer, "close", note_and_close)
    monkeypatch.setattr("worker.amqp.subscription.LONGEST_SESSION_SECONDS", SESSION_SECONDS)
    monkeypatch.setattr("worker.amqp.connection.SHORT_SESSION_SECONDS", 0.0)
    with recorded_deliveries(monkeypatch) as deliveries, capture_logs() as lines:
        async with family(parts) as consumer:
            await consumer.recover()
            running = asyncio.ensure_future(consumer.run())

            async def are_applied() -> bool:
                return await parts.stack.count("event_log") == MANY_MESSAGES

            for number in range(MANY_MESSAGES):
                await parts.publisher.publish(returned(number))
                await asyncio.sleep(4 * SESSION_SECONDS / MANY_MESSAGES)
            await until(are_applied, "all are applied")
            parts.stopping.set()
            await running

    renewals = sum(line["event"] == "session.renewed" for line in lines)
    assert renewals >= 3
    assert not closed_early
    assert len(deliveries) == MANY_MESSAGES
    # The broker counts messages that it did not send because the subscription was cancelled.
    assert sum(delivery.redelivered for delivery in deliveries) <= 2 * renewals
