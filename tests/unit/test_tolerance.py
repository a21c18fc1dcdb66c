"""Unreadable values that no rule needs count as absent, and are a finding."""

import asyncio
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.fernet import Fernet, MultiFernet

from consumers.effects import MOST_NAMED
from consumers.registry import FAMILIES
from schemas.event_schema import Payload
from schemas.events import InvalidEvent, parse
from schemas.examples import documented
from schemas.registry import Provider
from schemas.tolerance import MOST_BROKEN_RULES
from tests.support import events
from tests.support.memory_store import Store
from worker.intake.intake import body_to_store

ENCRYPTOR = MultiFernet([Fernet(Fernet.generate_key())])

Path = tuple[str | int, ...]

MOST_ITEMS = 1_000

# The values that rules need, in all documented events; an order needs only one of its two ids.
NEEDED = {
    "event_type",
    "timestamp",
    "event_data",
    "event_data.part_id",
    "event_data.status",
    "event_data.order_id",
    "event_data.return_id",
    "type",
    "result",
    "result.timestamp",
    "result.order",
    "result.order.id",
    "result.collectionId",
    "result.daysAfterCreation",
}


def places(document: Any, path: Path = ()) -> Iterator[Path]:
    """Every member and every element, at any depth."""
    steps = (
        document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    )
    for step in steps:
        yield (*path, step)
        yield from places(document[step], (*path, step))


def changed(document: Any, path: Path, *value: object) -> Any:
    """A copy with another value at this place, or without one."""
    document = copy.deepcopy(document)
    holder = document
    for step in path[:-1]:
        holder = holder[step]
    if value:
        holder[path[-1]] = value[0]
    else:
        del holder[path[-1]]
        # An array with only an unreadable element has no information either.
        if holder == []:
            return changed(document, path[:-1])
    return document


def read(provider: Provider, document: object) -> Payload | None:
    try:
        return parse(provider, json.dumps(document).encode())
    except InvalidEvent:
        return None


@pytest.mark.parametrize("example", documented(), ids=lambda example: example.name)
def test_an_unreadable_value_counts_as_absent_unless_a_rule_needs_it(example: Any) -> None:
    provider, document = (
        example.provider,
        json.loads(body_to_store(example.provider, example.body, ENCRYPTOR)),
    )
    needed = set()
    for path in places(document):
        without = read(provider, changed(document, path))
        if without is None:
            needed.add(".".join(step for step in path if isinstance(step, str)))
        for value in (False, [], {}, ["\0"]):
            payload = read(provider, changed(document, path, value))
            if payload is not None and not payload.unreadable_fields:
                continue  # We do not read the field, or the value is valid there.
            assert (payload is None) == (without is None), path
            if payload is not None and without is not None:
                assert payload.model_dump() == without.model_dump(), path

    assert needed <= NEEDED


def noted(payload: Payload, family: str) -> set[tuple[str, str, str]]:
    store = Store(FAMILIES[family])
    asyncio.run(store.apply([events.claimed(payload, 1)]))
    return {(finding.kind, finding.entity_id, finding.message) for finding in store.findings}


@pytest.mark.parametrize("value", [False, [], {}, "\0", "x" * 201])
def test_a_sale_with_an_unreadable_merchants_id_is_applied_and_is_a_finding(value: object) -> None:
    payload = events.part("sold", external_id=value, id_bridge="old")
    message = "treated as absent, because it could not be read: event_data.external_id"

    assert noted(payload, "inventory") == {("odd_field", "13", message)}
    assert payload.model_dump()["event_data"]["id_bridge"] == "old"


def test_an_item_without_an_id_leaves_the_rest_of_the_order() -> None:
    payload = events.snapshot("OrderCreatedEvent", items=({"id": []}, events.item("i2"), {"model": "x"}))  # type: ignore[arg-type]
    store = Store(FAMILIES["buybacks"])
    asyncio.run(store.apply([events.claimed(payload, 1)]))

    assert set(store.rows["o1"].items) == {"i2"}
    assert payload.unreadable_fields == ("result.order.items.id",)


def test_a_finding_names_some_of_many_unreadable_fields() -> None:
    names = ["status", "externalOrderId", "externalReference", "submissionExternalReference", "paymentType"]
    names += ["countryOfOrigin", "customerInformation", "items", "shipments"]
    order = {name: {} if name in ("items", "shipments") else [] for name in names}
    payload = events.snapshot("OrderCreatedEvent", order=order, itemId={}, collectionId={}, shipment=[])
    ((_, _, message),) = noted(payload, "buybacks")

    assert len(payload.unreadable_fields) > MOST_NAMED
    assert message.count("result.") == MOST_NAMED
    assert message.endswith(f" and {len(payload.unreadable_fields) - MOST_NAMED} more")


def test_an_order_of_many_items_with_unreadable_fields_is_applied() -> None:
    items = tuple({**events.item(f"i{number}"), "status": [], "model": []} for number in range(MOST_ITEMS))
    payload = events.snapshot("OrderCreatedEvent", items=items)
    store = Store(FAMILIES["buybacks"])
    asyncio.run(store.apply([events.claimed(payload, 1)]))

    assert len(store.rows["o1"].items) == MOST_ITEMS
    assert payload.unreadable_fields == ("result.order.items.model", "result.order.items.status")


def test_readable_fields_stay_beside_many_unreadable_ones() -> None:
    reasons: list[object] = [[], "Stained", {}, "Broken", 0, []]
    items = ({"id": "i1", "rejectionReasons": reasons}, 0, {"model": "x"}, {"id": "i2", "offers": [0, []]})
    payload = events.snapshot("OrderCreatedEvent", items=items)  # type: ignore[arg-type]
    first, second = payload.model_dump()["result"]["order"]["items"]

    assert (first["id"], first["rejection_reasons"]) == ("i1", ("Stained", "Broken", "0"))
    assert (second["id"], second["offers"]) == ("i2", None)


def test_a_body_without_a_readable_field_is_invalid() -> None:
    """The rest of it has no use."""
    document = {
        "type": "OrderCreatedEvent",
        "result": {
            "timestamp": "2026-03-01T12:00:00Z",
            "order": {"id": "1", "items": [0] * (MOST_BROKEN_RULES + 1)},
        },
    }

    with pytest.raises(InvalidEvent, match=r"result\.order\.items\.0: model_type"):
        events.read(Provider.BUYBACK, document)


@pytest.mark.parametrize(
    ("field", "event_type"),
    [
        ("part_id", "part.status.changed"),
        ("external_id", "part.status.changed"),
        ("id_bridge", "part.status.changed"),
        ("order_id", "order.created"),
        ("order_id", "order.return.created"),
        ("return_id", "order.return.updated"),
    ],
)
def test_an_id_of_ovokos_is_the_same_as_a_number_and_as_text(field: str, event_type: str) -> None:
    ids = {"part_id": "1", "status": "sold", "order_id": "2", "return_id": "3"}
    parsed = {
        events.read(
            Provider.OVOKO,
            {"event_type": event_type, "timestamp": 1e9, "event_data": {**ids, field: spelled}},
        ).model_dump()["event_data"][field]
        for spelled in (13, 13.0, "13", " 13 ", "13\n", 1.3e1)
    }

    assert parsed == {"13"}


@pytest.mark.parametrize(
    "place",
    [
        "collectionId",
        "itemId",
        "order.id",
        "order.externalOrderId",
        "order.externalReference",
        "order.submissionExternalReference",
        "order.items.id",
        "order.shipments.trackingCode",
        "order.shipments.id",
        "shipment.trackingCode",
    ],
)
def test_a_buyback_id_is_the_same_as_a_number_and_as_text(place: str) -> None:
    *holders, name = place.split(".")
    ids = set()
    for spelled in (13, 13.0, "13", " 13 ", "13\n"):
        document: dict[str, Any] = {"timestamp": 1e9, "collectionId": "1"}
        holder = document
        for step in holders:
            inner: dict[str, Any] = {"id": "1"}
            holder[step] = [inner] if step.endswith("s") else inner
            holder = inner
        holder[name] = spelled
        ids.add(
            events.read(
                Provider.BUYBACK, {"type": "CollectionItemReceivedEvent", "result": document}
            ).model_dump_json()
        )

    assert len(ids) == 1
    assert '"13"' in ids.pop()


def test_a_number_that_is_no_integer_keeps_its_digits_as_an_id() -> None:
    body = b'{"event_type": "order.created", "timestamp": 1e9, "event_data": {"order_id": %b}}'
    ids = {parse(Provider.OVOKO, body % number).entity_id for number in (b"13.50", b"13.5", b"1.35E+1")}

    assert ids == {"13.5"}
    assert parse(Provider.OVOKO, body % b"12345678901234567890123456789012.0").entity_id == (
        "12345678901234567890123456789012"
    )
