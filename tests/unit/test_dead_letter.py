"""Reading a dead letter's message."""

import pytest

from tests.support.events import body as body_of
from tests.support.events import ovoko
from worker.amqp.tap import Delivery
from worker.dead_letters.message import Letter, message_key, read_letter

HEADERS: dict[str, object] = {
    "x-event-type": "order.created",
    "x-provider": "ovoko",
    "x-event-id": "00000000-0000-4000-8000-000000000001",
    "x-content-id": "00000000-0000-4000-8000-000000000002",
    "x-received-at": "2026-03-01T12:00:00Z",
    "x-reason": "exhausted: KeyError in worker/pipeline/batch.py:handle #0a1b2c3d",
    "x-attempt": 4,
}
BODY = body_of(ovoko("order.created", at="no", order_id="7"))


def letter(body: bytes = BODY, *, redelivered: bool = False, **headers: object) -> Letter:
    headers_of_letter = {
        **HEADERS,
        **{f"x-{name.replace('_', '-')}": value for name, value in headers.items()},
    }
    return read_letter(
        "orders", Delivery(1, "ovoko.order.created", headers_of_letter, body, redelivered, "m.1")
    )


def test_an_exhausted_event_keeps_its_exception_and_fingerprint() -> None:
    read = letter()

    assert (read.exception, read.fingerprint, read.attempts) == ("KeyError", "0a1b2c3d", 4)
    assert (read.provider, read.type, read.entity_id) == ("ovoko", "order.created", "7")


def test_a_message_that_the_broker_rejected_names_that_reason_not_an_earlier_one() -> None:
    read = letter(death=[{"reason": "delivery_limit", "queue": "stockhook.orders", "count": 1}])

    assert "delivery limit" in read.reason
    assert read.exception is None


@pytest.mark.parametrize("value", [b'"Jane Canary"', b'"canary@example.org"', b"null", b"{}", b"true"])
def test_text_that_does_not_look_like_an_id_is_no_entity(value: bytes) -> None:
    assert letter(BODY.replace(b'"7"', value)).entity_id is None


def test_a_terminal_takes_no_orders_from_a_message() -> None:
    assert "\x1b" not in letter(reason="\x1b[2J gone", event_type="\x1b[2J").reason
    assert "\x1b" not in letter(event_type="\x1b[2J").type


@pytest.mark.parametrize(
    ("origin", "event_type", "recorded", "provenance"),
    [
        ("inventory", "part.status.changed", "webhook", "webhook"),
        ("inventory", "stockhook.observed.part", "observation", "observation"),
        ("inventory", "stockhook.observed.part", "webhook", "webhook"),
        ("quarantine", "stockhook.observed.part", "observation", "observation"),
        # From an older release, without the header.
        ("inventory", "part.status.changed", None, "webhook"),
        ("inventory", "stockhook.observed.part", None, "observation"),
        ("quarantine", "stockhook.observed.part", None, "webhook"),
        ("quarantine", "", None, "webhook"),
    ],
)
def test_where_a_dead_letter_came_from_is_read_from_its_headers_and_not_from_its_body(
    origin: str, event_type: str, recorded: str | None, provenance: str
) -> None:
    headers = {**HEADERS, "x-event-type": event_type}
    if recorded is not None:
        headers["x-provenance"] = recorded
    body = BODY.replace(b"order.created", b"stockhook.observed.part")
    read = read_letter(origin, Delivery(1, "", headers, body, False, "m.1"))

    assert read.provenance == provenance


def test_a_quarantined_body_that_is_sent_again_is_the_same_letter() -> None:
    def key(body: bytes, event_id: str, message_id: str, origin: str = "quarantine") -> object:
        headers = {**HEADERS, "x-event-type": "", "x-event-id": event_id}
        return message_key(origin, Delivery(1, "quarantine.ovoko", headers, body, False, message_id))

    # An encrypted body has different bytes each time.
    assert key(b"", "1", "m.1") == key(b"", "1", "m.2") == key(b"gAAAA", "1", "m.3")
    assert len({key(b"", "1", "m.1"), key(b"", "2", "m.1"), key(b"", "1", "m.1", "orders")}) == 3


def test_a_message_is_known_by_its_own_id_and_bytes() -> None:
    def key(message_id: str, body: bytes = BODY, *, redelivered: bool = False) -> object:
        return message_key("orders", Delivery(7, "", HEADERS, body, redelivered, message_id))

    assert key("m.1") == key("m.1", redelivered=True)
    assert len({key("m.1"), key("m.2"), key("m.1", b"{}")}) == 3
