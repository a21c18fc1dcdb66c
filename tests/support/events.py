"""Builders of events in the marketplaces' format: a test states only the members that it needs.

`ovoko`, `buyback` and the functions named after an event build a document, which `body` makes the body of a
webhook. The others (`part`, `order`, `returned`, `snapshot` …) build what the product reads from a document.

A time is a number of seconds after `EPOCH`, or the text that the document has.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from consumers.family import TOLERANCE, Event
from schemas.event_schema import Payload
from schemas.events import parse
from schemas.registry import Provider

EPOCH = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAMESPACE = UUID("6f0b2f9e-0000-4000-8000-000000000000")

Document = Mapping[str, Any]


def instant(second: float) -> datetime:
    return EPOCH + timedelta(seconds=second)


def numbered_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


def ovoko(event_type: str, at: float | str = 0, number: int | None = None, **data: object) -> dict[str, Any]:
    """With a number, the event has an id."""
    named = {} if number is None else {"event_id": numbered_id(number)}
    return {**named, "event_type": event_type, "timestamp": _timestamp(at), "event_data": data}


def buyback(event_type: str, at: float | str = 0, **result: object) -> dict[str, Any]:
    return {"type": event_type, "result": {"timestamp": _timestamp(at), **result}}


def _timestamp(at: float | str) -> str:
    return at if isinstance(at, str) else instant(at).isoformat()


def body(document: Document) -> bytes:
    return json.dumps(document).encode()


def part_changed(
    part_id: object, status: str = "sold", at: float | str = 0, number: int | None = None
) -> dict[str, Any]:
    return ovoko("part.status.changed", at, number, part_id=str(part_id), status=status)


def sold(part_id: object, number: int) -> bytes:
    return body(part_changed(part_id, number=number))


def order_created(order_id: object, number: int | None = None) -> dict[str, Any]:
    return ovoko("order.created", number=number, order_id=str(order_id))


def return_updated(number: int, return_id: object = None) -> dict[str, Any]:
    """The table of returns counts its events, which shows events that are lost or applied twice."""
    return ovoko(
        "order.return.updated",
        number=number,
        return_id=str(number if return_id is None else return_id),
        order_id="1",
    )


def event_id(name: object) -> UUID:
    return uuid5(NAMESPACE, str(name))


def claimed(
    payload: Payload, name: object, received: float = 0, tolerance: timedelta = TOLERANCE
) -> Event[Any]:
    """A claimed event; the same name gives the same event id."""
    return Event(event_id(name), instant(received), payload, tolerance=tolerance)


def read(provider: Provider, document: Document) -> Payload:
    return parse(provider, body(document))


def part(
    status: str,
    second: float = 0,
    part_id: str = "13",
    external_id: object = None,
    id_bridge: object = None,
) -> Payload:
    data = {"part_id": part_id, "status": status, "external_id": external_id, "id_bridge": id_bridge}
    return _read_ovoko("part.status.changed", second, **data)


def order(event_type: str, second: float = 0, order_id: str = "4555") -> Payload:
    return _read_ovoko(event_type, second, order_id=order_id)


def returned(event_type: str, second: float = 0, return_id: str = "77", order_id: str = "4555") -> Payload:
    return _read_ovoko(event_type, second, return_id=return_id, order_id=order_id)


def observed(status: str, second: float = 0, part_id: str = "13", external_id: str | None = None) -> Payload:
    """An observation of a part in the marketplace's list."""
    data = {"part_id": part_id, "status": status, "external_id": external_id}
    return _read_ovoko("stockhook.observed.part", second, **data)


def observed_return(
    second: float = 0,
    return_id: str = "77",
    order_id: str = "4555",
    is_listed: bool = True,
    created: float | None = None,
) -> Payload:
    """An observation of a return, or of its absence."""
    data = {
        "return_id": return_id,
        "order_id": order_id,
        "is_listed": is_listed,
        "created_at": None if created is None else instant(created).isoformat(),
    }
    return _read_ovoko("stockhook.observed.return", second, **data)


def _read_ovoko(event_type: str, second: float, **data: object) -> Payload:
    return read(Provider.OVOKO, ovoko(event_type, second, **data))


def item(
    item_id: str = "i1", status: str | None = None, total: object = 110, currency: str = "EUR", **more: Any
) -> Document:
    return {
        "id": item_id,
        "status": status,
        "category": {"id": "c", "name": "Bag"},
        "brand": {"id": "b", "name": "Brand"},
        "model": "Model1",
        "offers": [
            {
                "status": "WinningOffer",
                "basePrice": {"currencyIsoCode": currency, "amount": 100},
                "totalPrice": {"currencyIsoCode": currency, "amount": total},
            }
        ],
        **more,
    }


def snapshot(
    event_type: str,
    second: float = 0,
    order_id: str = "o1",
    status: str | None = None,
    items: tuple[Document, ...] = (),
    order: Document | None = None,
    **result: Any,
) -> Payload:
    """A buyback event with the snapshot of its order."""
    shown = {"id": order_id, "status": status, "items": list(items), **(order or {})}
    return read(Provider.BUYBACK, buyback(event_type, second, order=shown, **result))


def flat(event_type: str, second: float = 0, order_id: str = "o1", **result: Any) -> Payload:
    """A buyback event without a snapshot."""
    return read(Provider.BUYBACK, buyback(event_type, second, collectionId=order_id, **result))
