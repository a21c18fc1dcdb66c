"""The copies for retry queues and dead letters, of events, actions and changes."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from worker.actions.settlement import settlement_of
from worker.actions.types import Failed as ActionFailed
from worker.amqp.channel import Message
from worker.amqp.queue_set import QueueSet
from worker.amqp.tap import Delivery
from worker.change_feed.endpoint import Gone, NotDelivered
from worker.change_feed.webhook_dispatcher import copy_after_failure
from worker.pipeline.decode import InvalidDelivery
from worker.pipeline.disposition import disposition_of
from worker.pipeline.outcome import Invalid
from worker.pipeline.retry_schedule import REASON_LIMIT

NOW = datetime(2026, 3, 1, tzinfo=UTC)
QUEUES = QueueSet.of("shop", [timedelta(seconds=7)])
EARLIER = "2026-02-28T00:00:00+00:00"
OURS = {"x-change-id": "1.0", "x-subject": "13", "x-action-id": "1", "x-event-id": "1"}
HEADERS = {**OURS, "x-first-failed-at": EARLIER, "x-death": [{"count": 1}], "x-delivery-count": 3}


def delivery(attempt: int = 1) -> Delivery:
    return Delivery(1, "stockhook.part.sold", {**HEADERS, "x-attempt": attempt}, b"{}", False)


def of_event(reason: str) -> Message | None:
    return disposition_of(QUEUES, InvalidDelivery(delivery(), reason), Invalid(reason), NOW)


def of_action(reason: str) -> Message | None:
    return settlement_of(QUEUES, delivery(), ActionFailed(reason)).copy


def of_change(reason: str) -> Message | None:
    return copy_after_failure(QUEUES, delivery(), NotDelivered(reason), NOW)


@pytest.mark.parametrize("copy_of", [of_event, of_action, of_change])
def test_a_reason_is_short_enough_for_a_header(copy_of: Callable[[str], Message | None]) -> None:
    copy = copy_of("x" * 100_000)

    assert copy is not None
    assert len(str(copy.headers["x-reason"])) == REASON_LIMIT


@pytest.mark.parametrize(
    ("copy_of", "names"),
    [
        (of_event, {"x-event-id", "x-first-failed-at", "x-last-failed-at", "x-attempt", "x-reason"}),
        (of_action, {"x-action-id", "x-attempt", "x-reason"}),
        (
            of_change,
            {"x-change-id", "x-subject", "x-first-failed-at", "x-last-failed-at", "x-attempt", "x-reason"},
        ),
    ],
)
def test_a_copy_has_its_own_headers_and_none_of_the_broker(
    copy_of: Callable[[str], Message | None], names: set[str]
) -> None:
    copy = copy_of("it failed")

    assert copy is not None
    assert copy.headers.keys() == names
    assert copy.headers.get("x-first-failed-at", EARLIER) == EARLIER


@pytest.mark.parametrize(
    ("attempt", "failure", "queue", "next_attempt"),
    [
        (1, NotDelivered("it answered 500"), "stockhook.shop.retry.7s", 2),
        (2, NotDelivered("it answered 500"), "stockhook.shop.dead", 2),
        (1, Gone("it answered 410"), "stockhook.shop.dead", 1),
    ],
)
def test_a_change_that_was_not_delivered_is_retried_unless_its_endpoint_is_gone(
    attempt: int, failure: NotDelivered, queue: str, next_attempt: int
) -> None:
    copy = copy_after_failure(QUEUES, delivery(attempt), failure, NOW)

    assert (copy.exchange, copy.routing_key) == ("stockhook.return", queue)
    assert copy.headers["x-attempt"] == next_attempt
    assert copy.content_type == "application/cloudevents+json"
