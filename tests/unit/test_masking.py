"""What is shown of a body: its shape, and only what is known to be harmless."""

import json

import pytest

from schemas import examples
from schemas.registry import Provider
from worker.dead_letters.redaction import CHANGE, masked, shape_of

CANARIES = {
    "firstName": "Jane Canary",
    "name": "Jane Canary",
    "lastName": "Canaryson",
    "email": "canary@example.org",
    "number": "5550199",
    "firstLine": "1 Canary Lane",
    "zipCode": "C4N 4RY",
    "city": "Canaryville",
    "accountNumber": "GB33BUKB20201555555555",
    "id": "canary id of a person",
    "status": "ask canary@example.org",
    "trackingCode": "CANARY1Z999",
    "metadata": {"canary": "canary"},
    "isReschedule": "canary",
    "amount": "canary 1",
    "timestamp": "canary, yesterday",
    "Jane Canary": 1,
}


def test_of_an_ordinary_event_ids_and_instants_are_shown() -> None:
    body = b'{"event_type":"order.created","timestamp":"2026-03-01T12:00:00Z","event_data":{"order_id":"7"}}'

    assert json.loads(masked(body, shape_of(Provider.OVOKO))) == json.loads(body)


def test_no_canary_is_shown_wherever_it_stands() -> None:
    nested = {**CANARIES, "order": CANARIES, "items": [CANARIES], "customerInformation": {"id": "5550199"}}
    bodies = [nested, {"result": nested}, {"event_data": nested, "data": {"after": nested}}]
    shapes = [shape_of(None), shape_of(Provider.OVOKO), shape_of(Provider.BUYBACK), CHANGE]
    for shown in (masked(json.dumps(body).encode(), shape) for body in bodies for shape in shapes):
        assert "canary" not in shown.lower()
        assert "5550199" not in shown
        assert "GB33" not in shown


@pytest.mark.parametrize("example", examples.documented(), ids=lambda example: str(example.name))
def test_of_a_documented_customer_nothing_is_shown(example: examples.Example) -> None:
    def secrets(value: object, inside: bool = False) -> set[str]:
        match value:
            case dict():
                return set().union(
                    *(secrets(v, inside or k == "customerInformation") for k, v in value.items())
                )
            case list():
                return set().union(*(secrets(v, inside) for v in value))
            case str() if inside and len(value) > 3:
                return {value}
            case _:
                return set()

    shown = masked(example.body, shape_of(example.provider))

    assert not [value for value in secrets(json.loads(example.body)) if value in shown]


def test_what_is_no_json_is_not_shown() -> None:
    with pytest.raises(ValueError, match="expected value"):
        masked(b"Jane Canary", {})


@pytest.mark.parametrize("provider", [*Provider, None])
@pytest.mark.parametrize(
    "members",
    [
        {"payee": {"type": "IBAN", "id": "PT50000201231234567890154", "carrier": "Jane"}},
        {"PT50000201231234567890154": 1},
        {"Jane": {"id": "Jane", "status": "Jane"}},
        {"id": {"id": "Jane"}},
        {"order": [{"id": "Jane"}]},
        {"id": ["Jane"]},
        {"timestamp": "Jane", "part_id": "4111-1111-1111-1111", "order_id": 4111111111111111},
        {"id": "PT50000201231234567890154", "collectionId": "pt50.0002.0123.1234.5678.9015.4"},
        {"customerInformation": {"id": "Jane", "status": "Jane"}},
    ],
    ids=str,
)
def test_a_name_or_an_account_is_hidden_wherever_it_stands(
    provider: Provider | None, members: dict[str, object]
) -> None:
    for body in (members, {"event_data": members}, {"result": members}, {"event": {"event_data": members}}):
        shown = masked(json.dumps(body).encode(), shape_of(provider))

        assert "jane" not in shown.lower()
        assert not [number for number in ("PT50", "pt50", "4111") if number in shown]


@pytest.mark.parametrize("example", examples.documented(), ids=lambda example: str(example.name))
def test_every_documented_name_is_shown(example: examples.Example) -> None:
    def names(value: object) -> set[str]:
        match value:
            case dict():
                return set(value).union(*map(names, value.values()))
            case list():
                return set().union(*map(names, value))
            case _:
                return set()

    shown = json.loads(masked(example.body, shape_of(example.provider)))

    assert names(shown) == names(json.loads(example.body))


def test_a_documented_event_shows_what_an_operator_needs() -> None:
    example = next(one for one in examples.documented() if one.name == "OrderCreatedEvent")
    shown = json.loads(masked(example.body, shape_of(example.provider)))
    body = json.loads(example.body)

    assert shown["type"] == body["type"]
    assert shown["result"]["timestamp"] == body["result"]["timestamp"]
    assert shown["result"]["order"]["id"] == body["result"]["order"]["id"]
    assert shown["result"]["order"]["items"][0]["status"] == body["result"]["order"]["items"][0]["status"]


def test_of_a_change_free_text_is_hidden() -> None:
    shown = {
        "order_id": "7",
        "status": "received",
        "occurred_at": "2026-03-01T12:00:00Z",
        "total_amount": "10.50",
        "days": 3,
        "is_listed": True,
    }
    state = {
        **shown,
        "external_reference": "Jane",
        "items": [{"item_id": "i1", "currency": "EUR", "brand": "Jane"}],
        "shipments": [{"carrier": "UPS", "tracking_code": "Jane"}],
    }
    change = json.loads(masked(json.dumps({"source": "/x", "data": {"after": state}}).encode(), CHANGE))

    assert change == {
        "source": "<2 characters>",
        "data": {
            "after": {
                **shown,
                "external_reference": "<4 characters>",
                "items": [{"item_id": "i1", "currency": "EUR", "brand": "<4 characters>"}],
                "shipments": [{"carrier": "UPS", "tracking_code": "<4 characters>"}],
            }
        },
    }
