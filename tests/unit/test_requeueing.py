"""A requeued delivery is delivered again like a new one."""

import asyncio
from typing import Any

import pytest

from worker.amqp.connection import Broker
from worker.amqp.subscription import requeue_copy
from worker.amqp.tap import Delivery
from worker.config.settings import Settings
from worker.dead_letters.archiver import Archiver
from worker.dead_letters.message import read_letter

OURS = {"x-event-id": "1", "x-attempt": 2, "x-subject": "part/1", "foreign": "kept"}
OF_THE_BROKER = {
    "x-death": [{"reason": "delivery_limit", "queue": "stockhook.orders"}],
    "x-first-death-queue": "stockhook.orders",
    "x-last-death-reason": "delivery_limit",
    "x-delivery-count": 3,
}


class Stub:
    """Replaces a database and a publisher that are not used."""

    async def ping(self) -> None: ...


def delivery(queue: str, **headers: Any) -> Delivery:
    return Delivery(7, "ovoko.order.created", {**OURS, **headers}, b"{}", True, "m.1", queue)


@pytest.mark.parametrize(
    ("queue", "route"),
    [
        ("stockhook.orders", ("stockhook.return", "stockhook.orders")),
        ("stockhook.webhook.shop.dead", ("stockhook.return", "stockhook.webhook.shop.dead")),
        ("stockhook.quarantine", ("stockhook.quarantine", "")),
    ],
)
def test_a_copy_goes_to_its_own_queue_without_headers_of_the_broker(
    queue: str, route: tuple[str, str]
) -> None:
    copy = requeue_copy(delivery(queue, **OF_THE_BROKER))

    assert (copy.exchange, copy.routing_key) == route
    assert copy.headers == OURS
    assert (copy.type, copy.body) == ("ovoko.order.created", b"{}")


def test_a_dead_letter_keeps_the_reason_that_the_broker_states_in_its_headers() -> None:
    stub: Any = Stub()
    archiver = Archiver(("orders",), Settings(), Broker("", ""), stub, stub, asyncio.Event())
    dead = delivery("stockhook.orders.dead", **OF_THE_BROKER)
    copy = archiver.subscription.copy_to_requeue(dead)
    again = Delivery(8, copy.type, copy.headers, copy.body, False, "m.2", dead.queue)

    assert "x-death" not in copy.headers
    assert "delivery limit" in str(copy.headers["x-reason"])
    assert read_letter("orders", again).reason == read_letter("orders", dead).reason
