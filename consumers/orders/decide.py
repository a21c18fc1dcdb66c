"""Whether an order stands or was cancelled."""

from dataclasses import dataclass, replace
from datetime import datetime

from consumers.family import Decision, Event
from schemas.ovoko import OrderCancelled, OrderCreated


@dataclass(frozen=True, slots=True)
class Order:
    """An order's row: cancelled once a cancellation is known, also where nothing else is."""

    order_id: str
    created_at: datetime | None = None
    cancelled_at: datetime | None = None
    revision: int = 0


def decide(order: Order | None, event: Event[OrderCreated | OrderCancelled]) -> Decision[Order]:
    """Each of the two instants is the earliest that was told."""
    payload = event.payload
    order = order or Order(payload.event_data.order_id)
    match payload:
        case OrderCreated():
            return Decision(replace(order, created_at=_earliest(order.created_at, payload.timestamp)))
        case OrderCancelled():
            return Decision(replace(order, cancelled_at=_earliest(order.cancelled_at, payload.timestamp)))


def _earliest(known: datetime | None, told: datetime) -> datetime:
    return told if known is None else min(known, told)
