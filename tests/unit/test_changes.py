"""Published changes: their types, their fields, and fields that are never published."""

import asyncio
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import orjson
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from cloudevents.core.v1.event import CloudEvent

from consumers.registry import FAMILIES, FAMILY_OF
from schemas import examples
from schemas.changes import CONTENT_TYPE, Change, cloud_events, encode
from schemas.event_schema import Payload
from schemas.events import parse, routing_key_of
from tests.support import events
from tests.support.events import flat, item, order, part, returned, snapshot
from tests.support.memory_store import Store
from worker.change_feed.relay import sending, waves


def published(*payloads: Payload) -> list[Change]:
    """The changes of these events of one family, each applied in a separate batch."""
    store = Store(FAMILIES[FAMILY_OF[routing_key_of(type(payloads[0]))]])

    async def run() -> None:
        for number, payload in enumerate(payloads):
            await store.apply([events.claimed(payload, number)])

    asyncio.run(run())
    return store.changes


@pytest.mark.parametrize(
    ("payloads", "expected"),
    [
        ([part("in_warehouse"), part("sold", 1)], ["part.in_warehouse", "part.sold"]),
        ([part("reserved"), part("sold_in_ebay", 1)], ["part.reserved", "part.sold"]),
        # Reported again later: only the instant changes.
        ([part("sold"), part("sold", 1)], ["part.sold", "part.updated"]),
        # Older than the state: nothing changes, and nothing is published.
        ([part("sold", 1), part("reserved")], ["part.sold"]),
        ([part("stolen")], ["part.updated"]),
        ([order("order.created"), order("order.cancelled", 1)], ["order.created", "order.cancelled"]),
        ([order("order.cancelled", 1), order("order.created")], ["order.cancelled", "order.updated"]),
        (
            [returned("order.return.updated", 1), returned("order.return.created")],
            ["return.updated", "return.opened"],
        ),
        (
            [
                snapshot("OrderCreatedEvent", 0, items=(item(),)),
                flat("CollectionItemInTransitEvent", 1, itemId="i1"),
                flat("CollectionItemReceivedEvent", 2, itemId="i1"),
            ],
            [
                "buyback.created",
                "buyback.in_transit",
                "buyback.processing",
                "communication.item_received",
            ],
        ),
    ],
)
def test_the_type_names_the_change(payloads: Sequence[Payload], expected: Sequence[str]) -> None:
    assert [change.type for change in published(*payloads)] == expected


def test_an_event_that_changes_nothing_that_is_published_causes_no_change() -> None:
    """After an implausible timestamp, the row notes the last reception too, which no subscriber sees."""
    payloads = (part("in_warehouse", 10**8), part("sold", 2), part("reserved", 1))
    store = Store(FAMILIES["inventory"])

    async def run() -> None:
        for number, payload in enumerate(payloads):
            await store.apply([events.claimed(payload, number, received=number)])

    asyncio.run(run())

    assert [change.type for change in store.changes] == ["part.in_warehouse", "part.sold"]


def test_a_change_shows_the_state_before_and_after() -> None:
    _, change = published(part("reserved", external_id="shelf 4"), part("sold", 1))

    assert orjson.loads(encode([change])) == [
        {
            "type": "part.sold",
            "subject": "13",
            "event_id": str(events.event_id(1)),
            "occurred_at": "2026-03-01T12:00:01Z",
            "before": {
                "part_id": "13",
                "status": "reserved",
                "since": "2026-03-01T12:00:00Z",
                "external_id": "shelf 4",
            },
            "after": {
                "part_id": "13",
                "status": "sold",
                "since": "2026-03-01T12:00:01Z",
                "external_id": "shelf 4",
            },
        }
    ]


def test_no_change_contains_customer_data() -> None:
    """Check the changes of all documented examples for every datum of their customers."""
    secret: set[str] = set()
    said = b""
    for example in examples.documented():
        document = _left_by_the_ingest(example)
        secret |= {text for text in _texts(_customer_of(document)) if len(text) > 3}
        said += encode(published(parse(example.provider, orjson.dumps(document))))

    assert secret
    assert not {text for text in secret if text.encode() in said}


def _left_by_the_ingest(example: examples.Example) -> Any:
    document = orjson.loads(example.body)
    customer = _customer_of(document)
    if customer.get("customerPaymentDetails"):
        customer["customerPaymentDetails"] = {"sealed": "sealed-canary", "accountNumberEnding": "canary"}
    return document


def _customer_of(document: Any) -> Any:
    result = document.get("result", {})
    return (result.get("order") or result).get("customerInformation") or {}


def _texts(value: Any) -> set[str]:
    match value:
        case dict():
            return set().union(*map(_texts, value.values()))
        case str():
            return {value}
        case _:
            return set()


def test_a_cloud_event_has_the_required_attributes() -> None:
    batch_id = events.event_id("a batch")
    changes = published(part("reserved"), part("sold", 1))
    _, (_, name, subject, body, _) = cloud_events(batch_id, 42, encode(changes))

    assert (name, subject) == ("stockhook.part.sold", "13")
    assert orjson.loads(body) == {
        "specversion": "1.0",
        "id": f"{batch_id}.1",
        "source": "/stockhook",
        "type": "stockhook.part.sold",
        "subject": "13",
        "time": "2026-03-01T12:00:01Z",
        "datacontenttype": "application/json",
        "sequence": "0000000000000000042.0001",
        "data": {
            "event_id": str(changes[1].event_id),
            "before": orjson.loads(orjson.dumps(changes[1].before, option=orjson.OPT_UTC_Z)),
            "after": orjson.loads(orjson.dumps(changes[1].after, option=orjson.OPT_UTC_Z)),
        },
    }


def test_a_change_has_the_context_of_its_event_as_an_extension() -> None:
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    batch_id = events.event_id("a batch")
    changes = published(part("reserved"), part("sold", 1))
    plain = list(cloud_events(batch_id, 42, encode(changes)))
    untraced, traced = cloud_events(batch_id, 42, encode(changes, {changes[1].event_id: traceparent}))
    with sending(None, [untraced, traced]) as (first, second):
        pass
    event: CloudEvent = from_http_event(HTTPMessage({"content-type": CONTENT_TYPE}, second.body))

    # Without a tracer in this process, the context is passed on.
    assert (first.body, first.headers.get("traceparent")) == (plain[0].body, None)
    assert orjson.loads(second.body) == {**orjson.loads(plain[1].body), "traceparent": traceparent}
    assert second.headers["traceparent"] == traceparent
    assert event.get_extension("traceparent") == traceparent


def test_the_library_of_cloud_events_takes_every_change_of_documented_events() -> None:
    """In the form of HTTP; the library checks each attribute against the specification."""
    taken = set()
    for example in examples.documented():
        batch_id = events.event_id(example.name)
        payload = parse(example.provider, orjson.dumps(_left_by_the_ingest(example)))
        for change in cloud_events(batch_id, 1, encode(published(payload))):
            event = from_http_event(HTTPMessage({"content-type": CONTENT_TYPE}, change.body))
            taken.add(event.get_type())

            assert isinstance(event, CloudEvent)
            assert (event.get_id(), event.get_subject()) == (change.change_id, change.subject)
            assert event.get_extension("sequence") == orjson.loads(change.body)["sequence"]
            assert event.get_data() == orjson.loads(change.body)["data"]

    assert len(taken) > 10


def test_of_each_subject_one_change_is_published_at_a_time() -> None:
    rows = list(enumerate("aababc"))
    numbers = [[number for number, _ in wave] for wave in waves(rows, itemgetter(1))]

    assert numbers == [[0, 2, 5], [1, 4], [3]]
