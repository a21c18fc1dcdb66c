"""What is shown of a body: its shape, and only what is known to be harmless."""

import json

import pytest

from schemas import examples
from worker.dead.masking import masked

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

    assert json.loads(masked(body)) == json.loads(body)


def test_no_canary_is_shown_wherever_it_stands() -> None:
    nested = {**CANARIES, "order": CANARIES, "items": [CANARIES], "customerInformation": {"id": "5550199"}}
    shown = masked(json.dumps(nested).encode())

    assert "canary" not in shown.lower().replace('"canary":', "")
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

    shown = masked(example.body)

    assert not [value for value in secrets(json.loads(example.body)) if value in shown]


def test_what_is_no_json_is_not_shown() -> None:
    with pytest.raises(ValueError, match="expected value"):
        masked(b"Jane Canary")
