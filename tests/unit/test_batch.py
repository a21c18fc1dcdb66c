"""The disposition of a delivery that was not applied."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from consumers.registry import FAMILIES
from schemas.envelope import Envelope
from schemas.registry import Provider
from tests.support.events import body as body_of
from tests.support.events import part_changed
from worker.amqp.queue_set import QueueSet
from worker.amqp.tap import Delivery
from worker.pipeline.decode import Decoded, InvalidDelivery, decode
from worker.pipeline.disposition import disposition_of
from worker.pipeline.outcome import Applied, Duplicate, Failed, Invalid
from worker.pipeline.retry_schedule import REASON_LIMIT

NOW = datetime(2026, 3, 1, tzinfo=UTC)
QUEUES = QueueSet.of("inventory", [timedelta(seconds=seconds) for seconds in (7, 35, 175)])
BODY = body_of(part_changed("13", at="2023-01-12T14:17:20+02:00"))


def delivery(attempt: int = 1, body: bytes = BODY, **headers: object) -> Delivery:
    envelope = Envelope(
        provider=Provider.OVOKO,
        event_type="part.status.changed",
        event_id=UUID(int=1),
        content_id=UUID(int=2),
        received_at=NOW,
        attempt=attempt,
    )
    return Delivery(1, "ovoko.part.status.changed", {**envelope.to_headers(), **headers}, body, False)


def decoded(attempt: int = 1, **headers: object) -> Decoded:
    item = decode(FAMILIES["inventory"], delivery(attempt, **headers))
    assert isinstance(item, Decoded)
    return item


OBSERVED = BODY.replace(b"part.status.changed", b"stockhook.observed.part")


@pytest.mark.parametrize(
    ("headers", "is_applied"),
    [
        ({"x-event-type": "stockhook.observed.part", "x-provenance": "observation"}, True),
        ({"x-event-type": "stockhook.observed.part", "x-provenance": "webhook"}, False),
        ({"x-event-type": "part.status.changed", "x-provenance": "webhook"}, False),
        # From an older release, without the header.
        ({"x-event-type": "stockhook.observed.part"}, True),
        ({"x-event-type": "part.status.changed"}, False),
    ],
)
def test_an_observation_is_applied_only_where_we_published_it(
    headers: dict[str, object], is_applied: bool
) -> None:
    item = decode(FAMILIES["inventory"], delivery(body=OBSERVED, **headers))

    assert isinstance(item, Decoded if is_applied else InvalidDelivery)


@pytest.mark.parametrize("outcome", [Applied(), Duplicate()])
def test_an_applied_message_is_only_acknowledged(outcome: Applied | Duplicate) -> None:
    assert disposition_of(QUEUES, decoded(), outcome, NOW) is None


@pytest.mark.parametrize(
    ("attempt", "queue", "next_attempt"),
    [
        (1, "stockhook.inventory.retry.7s", 2),
        (2, "stockhook.inventory.retry.35s", 3),
        (3, "stockhook.inventory.retry.175s", 4),
        (4, "stockhook.inventory.dead", 4),
    ],
)
def test_a_failure_goes_to_the_next_retry_queue(attempt: int, queue: str, next_attempt: int) -> None:
    copy = disposition_of(QUEUES, decoded(attempt), Failed(ValueError("x")), NOW)

    assert copy is not None
    assert (copy.exchange, copy.routing_key) == ("stockhook.return", queue)
    assert copy.headers["x-attempt"] == next_attempt
    assert (copy.type, copy.body) == ("ovoko.part.status.changed", BODY)


def test_the_reason_of_a_failure_quotes_nothing() -> None:
    copy = disposition_of(QUEUES, decoded(4), Failed(ValueError("secret")), NOW)

    assert copy is not None
    assert str(copy.headers["x-reason"]).startswith("exhausted: ValueError")
    assert "secret" not in str(copy.headers)


def test_the_first_failure_is_preserved_and_the_brokers_headers_are_not() -> None:
    earlier = (NOW - timedelta(seconds=9)).isoformat()
    added = {"x-first-failed-at": earlier, "x-death": [{"count": 1}], "x-delivery-count": 3}
    copy = disposition_of(QUEUES, decoded(2, **added), Failed(ValueError()), NOW)

    assert copy is not None
    assert copy.headers["x-first-failed-at"] == earlier
    assert copy.headers["x-last-failed-at"] == NOW.isoformat()
    assert not {"x-death", "x-delivery-count"} & copy.headers.keys()


def test_a_reason_is_short_enough_for_a_header() -> None:
    copy = disposition_of(QUEUES, decoded(), Invalid("x" * 100_000), NOW)

    assert copy is not None
    assert len(str(copy.headers["x-reason"])) == REASON_LIMIT


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "body: not JSON"),
        (BODY.replace(b'"part_id": "13", ', b""), "event_data.part_id: missing"),
        (BODY.replace(b'"13"', b"[13]"), "event_data.part_id: string_type"),
        (BODY.replace(b'"13"', b'"a\\u0000b"'), "event_data.part_id: string_pattern_mismatch"),
        (BODY.replace(b"2023-01-12T14:17:20+02:00", b"yesterday"), "timestamp: datetime_from_date_parsing"),
        (BODY.replace(b"2023", b"1492"), "timestamp: greater_than_equal"),
        (b'{"event_type":"order.created"}', "timestamp: missing; event_data: missing"),
    ],
)
def test_a_broken_event_is_dead_at_once_and_its_reason_names_field_and_rule(body: bytes, reason: str) -> None:
    item = decode(FAMILIES["inventory"], delivery(body=body))
    assert isinstance(item, InvalidDelivery)
    copy = disposition_of(QUEUES, item, Invalid(item.reason), NOW)

    assert item.reason == reason
    assert copy is not None
    assert copy.routing_key == "stockhook.inventory.dead"
    assert copy.headers["x-attempt"] == 1


def test_an_event_of_another_family_is_not_applied_by_this_one() -> None:
    item = decode(FAMILIES["orders"], delivery())

    assert isinstance(item, InvalidDelivery)
    assert item.reason == "event: not one of the family orders"


def test_a_message_without_our_headers_is_undecodable() -> None:
    item = decode(FAMILIES["inventory"], Delivery(1, "", {"x-event-id": "no uuid"}, BODY, False))

    assert isinstance(item, InvalidDelivery)
    assert item.reason == "headers: x-event-type, x-provider, x-event-id, x-content-id, x-received-at"
