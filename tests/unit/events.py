"""Events as the marketplaces would send them, with only what a test is about spelled out."""

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


def event_id(name: object) -> UUID:
    return uuid5(NAMESPACE, str(name))


def claimed(
    payload: Payload, name: object, received: float = 0, tolerance: timedelta = TOLERANCE
) -> Event[Any]:
    """An event that was claimed; the same name is the same event id."""
    return Event(event_id(name), instant(received), payload, tolerance=tolerance)


def read(provider: Provider, document: Document) -> Payload:
    return parse(provider, json.dumps(document).encode())


def part(
    status: str,
    second: float = 0,
    part_id: str = "13",
    external_id: object = None,
    id_bridge: object = None,
) -> Payload:
    data = {"part_id": part_id, "status": status, "external_id": external_id, "id_bridge": id_bridge}
    return _ovoko("part.status.changed", second, data)


def order(event_type: str, second: float = 0, order_id: str = "4555") -> Payload:
    return _ovoko(event_type, second, {"order_id": order_id})


def returned(event_type: str, second: float = 0, return_id: str = "77", order_id: str = "4555") -> Payload:
    return _ovoko(event_type, second, {"return_id": return_id, "order_id": order_id})


def observed(status: str, second: float = 0, part_id: str = "13", external_id: str | None = None) -> Payload:
    """A part as it was seen in the marketplace's list."""
    data = {"part_id": part_id, "status": status, "external_id": external_id}
    return _ovoko("stockhook.observed.part", second, data)


def observed_return(
    second: float = 0,
    return_id: str = "77",
    order_id: str = "4555",
    is_listed: bool = True,
    created: float | None = None,
) -> Payload:
    """A return as it was seen, or was not."""
    data = {
        "return_id": return_id,
        "order_id": order_id,
        "is_listed": is_listed,
        "created_at": None if created is None else instant(created).isoformat(),
    }
    return _ovoko("stockhook.observed.return", second, data)


def _ovoko(event_type: str, second: float, data: Document) -> Payload:
    document = {
        "event_id": "x",
        "event_type": event_type,
        "timestamp": instant(second).isoformat(),
        "event_data": data,
    }
    return read(Provider.OVOKO, document)


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
    """A trade-in event with the snapshot of its order."""
    told = {"id": order_id, "status": status, "items": list(items), **(order or {})}
    document = {
        "type": event_type,
        "result": {"timestamp": instant(second).isoformat(), "order": told, **result},
    }
    return read(Provider.BUYBACK, document)


def flat(event_type: str, second: float = 0, order_id: str = "o1", **result: Any) -> Payload:
    """A trade-in event without a snapshot."""
    document = {
        "type": event_type,
        "result": {"timestamp": instant(second).isoformat(), "collectionId": order_id, **result},
    }
    return read(Provider.BUYBACK, document)
