"""The exact properties of queues and exchanges."""

from datetime import timedelta

from consumers.registry import FAMILIES
from schemas.events import event_models, routing_key
from schemas.registry import Provider
from worker.amqp.queue_set import QueueSet, RetryQueue
from worker.amqp.topology import (
    Binding,
    Exchange,
    Queue,
    topology,
    webhook_topology,
)

DELAYS = [timedelta(seconds=seconds) for seconds in (7, 35, 175)]


def test_each_family_has_its_queue_a_retry_queue_per_delay_and_dead_letters() -> None:
    names = {queue.name for queue in topology(DELAYS).queues}
    expected = {
        f"stockhook.{family}{suffix}"
        for family in (*FAMILIES, "actions")
        for suffix in ("", ".retry.7s", ".retry.35s", ".retry.175s", ".dead")
    }

    assert names == {*expected, "stockhook.quarantine"}


def test_the_names_of_a_subscribers_queues_hold_its_origin_and_the_delays() -> None:
    queues = QueueSet.of("webhook.shop", DELAYS)

    assert queues == QueueSet(
        "webhook.shop",
        "stockhook.webhook.shop",
        (
            RetryQueue("stockhook.webhook.shop.retry.7s", "7s", DELAYS[0]),
            RetryQueue("stockhook.webhook.shop.retry.35s", "35s", DELAYS[1]),
            RetryQueue("stockhook.webhook.shop.retry.175s", "175s", DELAYS[2]),
        ),
        "stockhook.webhook.shop.dead",
    )
    assert queues.names == [queue.name for queue in webhook_topology(queues, ()).queues]


def test_the_exchanges() -> None:
    assert topology(DELAYS).exchanges == (
        Exchange("stockhook.events", "topic", {"alternate-exchange": "stockhook.quarantine"}),
        Exchange("stockhook.return", "direct"),
        Exchange("stockhook.quarantine", "fanout"),
        Exchange("stockhook.probe", "direct"),
        Exchange("stockhook.changes", "topic"),
    )


def test_a_retry_queue_returns_messages_only_to_its_family_at_least_once() -> None:
    queues = {queue.name: queue for queue in topology(DELAYS).queues}

    assert queues["stockhook.orders.retry.35s"] == Queue(
        "stockhook.orders.retry.35s",
        {
            "x-queue-type": "quorum",
            "x-message-ttl": 35_000,
            "x-dead-letter-exchange": "stockhook.return",
            "x-dead-letter-routing-key": "stockhook.orders",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )


def test_a_poison_message_goes_to_the_dead_letters_never_to_a_retry_queue() -> None:
    queues = {queue.name: queue for queue in topology(DELAYS).queues}
    arguments = queues["stockhook.orders"].arguments

    assert arguments["x-delivery-limit"] == 20
    assert arguments["x-dead-letter-routing-key"] == "stockhook.orders.dead"


def test_dead_letters_stay() -> None:
    queues = {queue.name: queue for queue in topology(DELAYS).queues}

    assert queues["stockhook.orders.dead"].arguments == {"x-queue-type": "quorum"}
    assert queues["stockhook.quarantine"].arguments == {"x-queue-type": "quorum"}


def test_each_event_type_is_bound_to_one_family() -> None:
    bound = [binding for binding in topology(DELAYS).bindings if binding.exchange == "stockhook.events"]

    known = [routing_key(provider, name) for provider in Provider for name in event_models(provider)]
    assert sorted(binding.routing_key for binding in bound) == sorted(known)
    assert len(known) == len(set(known))
    assert Binding("stockhook.events", "stockhook.inventory", "ovoko.part.status.changed") in bound
    assert Binding("stockhook.events", "stockhook.reminders", "buyback.OrderPickupReminderEvent") in bound
