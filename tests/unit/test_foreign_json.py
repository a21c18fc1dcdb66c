"""Numbers in foreign JSON are exact, or refused if their conversion would take too long."""

import subprocess
import sys
from decimal import Decimal

import pytest

from schemas.events import InvalidEvent, parse, parse_logged, read_json
from schemas.ovoko import PartEvent
from schemas.registry import Provider

# Each reader of foreign JSON, with a document whose `%b` is replaced by a number.
READERS = """
import sys
from worker.cli.payment_details import parsed_details
from worker.marketplaces.buyback.client import _document, _read
from worker.marketplaces.buyback.errors import title
from worker.marketplaces.buyback.requests import PickupCapabilities, ShipmentCapabilities
from worker.marketplaces.oauth_token import Granted
from worker.config.subscribers import read_subscribers
from schemas.events import parse, parse_logged
from schemas.registry import Provider
from schemas.ovoko_api import read_answer

PART = b'{"event_type": "part.status.changed", "timestamp": %b, "event_data": {"part_id": %b, "status": %b}}'
ORDER = b'{"type": "OrderCreatedEvent", "result": {"timestamp": %b, "id": "1", "order": {"id": %b}}}'
DAYS = b'{"type": "OrderDropOffReminderEvent", "result": {"timestamp": 1, "daysAfterCreation": %b}}'
PRICE = (
    b'{"type": "CollectionItemInTransitEvent", "result": {"timestamp": true, "collectionId": "1", "order": '
    b'{"id": "1", "items": [{"id": "1", "offers": [{"promotions": [{"percentage": %b}]}]}]}}}'
)
NUMBERS = (b"1e999999999", b'"1e999999999"', b"-1e-999999999", b"1e99999999999999999999", b"9" * 250_000)
READERS = {
    "ovoko's answer": (read_answer, b'{"status_code": "R200", "pagination": {"total_count": %b}}'),
    "webhook of a part": (lambda body: parse(Provider.OVOKO, body), PART),
    "webhook of an order": (lambda body: parse(Provider.BUYBACK, body), ORDER),
    "webhook with days": (lambda body: parse(Provider.BUYBACK, body), DAYS),
    "logged part": (lambda body: parse_logged(Provider.OVOKO, body), PART),
    "logged order": (lambda body: parse_logged(Provider.BUYBACK, body), ORDER),
    "logged days": (lambda body: parse_logged(Provider.BUYBACK, body), DAYS),
    "logged price": (lambda body: parse_logged(Provider.BUYBACK, body), PRICE),
    "token": (lambda body: _read(Granted, body), b'{"access_token": "x", "expires_in": %b}'),
    "capabilities": (lambda body: _read(ShipmentCapabilities, body), b'{"pickUpAllowed": %b}'),
    "slots": (lambda body: _read(PickupCapabilities, body), b'{"slots": [{"initialSlot": %b}]}'),
    "other answer": (_document, b'{"a": %b}'),
    "problem": (title, b'{"title": %b}'),
    "payment details": (parsed_details, b'{"firstName": %b}'),
    "subscribers": (lambda body: read_subscribers(body.decode()), b'[{"name": "a", "url": %b}]'),
}
for name, (read, document) in READERS.items():
    for number in NUMBERS:
        try:
            read(document.replace(b"%b", number))
        except Exception as error:
            kinds = ("Invalid", "Unexpected", "Bad", "ValueError")
            assert type(error).__name__.startswith(kinds), (name, error)
"""


def test_no_number_in_foreign_json_stops_a_reader() -> None:
    subprocess.run([sys.executable, "-c", READERS], check=True, timeout=60)


@pytest.mark.parametrize(
    "number",
    [
        b"1e101",
        b"1e-101",
        b"0e101",
        b"-1E+999999999",
        b"1e99999999999999999999",
        b"1" * 101,
        b"-" + b"1" * 101,
        b"0." + b"1" * 101,
    ],
)
def test_a_number_of_over_a_hundred_digits_is_refused_at_any_place(number: bytes) -> None:
    for document in (b"%b", b"[%b]", b'{"a": [{"b": %b}]}'):
        with pytest.raises(ValueError, match=r"digits|number|InvalidOperation"):
            read_json(document % number)


def test_a_number_is_read_exactly() -> None:
    document = read_json(b"[1e100, 0.1, 12345678901234567890.123456789, %b]" % (b"9" * 100))

    assert document == [
        Decimal("1e100"),
        Decimal("0.1"),
        Decimal("12345678901234567890.123456789"),
        10**100 - 1,
    ]


LOGGED = b"""{"event_type": "part.status.changed", "timestamp": "2026-03-01T12:00:00Z", "x": %b,
    "event_data": {"part_id": %b, "status": "sold"}}"""


@pytest.mark.parametrize("number", [b"1e200", b"-1E+999999999", b"0e-101", b"1" * 101, b"0." + b"1" * 101])
def test_a_logged_event_with_any_number_in_an_unused_field_is_read(number: bytes) -> None:
    body = LOGGED % (number, b"13")
    with pytest.raises(InvalidEvent):
        parse(Provider.OVOKO, body)

    assert parse_logged(Provider.OVOKO, body).entity_id == "13"


def test_a_logged_event_keeps_an_id_of_many_digits_as_it_was_logged() -> None:
    payload = parse_logged(Provider.OVOKO, LOGGED % (b"1e200", b"1e150"))

    assert isinstance(payload, PartEvent)
    assert payload.entity_id == "1E+150"
