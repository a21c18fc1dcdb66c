"""Whether an order stands or was cancelled."""

from dataclasses import dataclass, replace
from datetime import datetime

from consumers.family import Decision, Event, implausible
from schemas.ovoko import OrderCancelled, OrderCreated


@dataclass(frozen=True, slots=True)
class Order:
    """An order's row: cancelled once a cancellation is known, also where nothing else is."""

    order_id: str
    created_at: datetime | None = None
    cancelled_at: datetime | None = None
    revision: int = 0


def decide(order: Order | None, event: Event[OrderCreated | OrderCancelled]) -> Decision[Order]:
    """Both timestamps are the earliest that events state; the reception replaces an implausible one."""
    payload = event.payload
    order = order or Order(payload.event_data.order_id)
    match payload:
        case OrderCreated():
            after = replace(order, created_at=_earliest(order.created_at, event.instant))
        case OrderCancelled():
            after = replace(order, cancelled_at=_earliest(order.cancelled_at, event.instant))
    return Decision(after, findings=implausible(event))


def _earliest(known: datetime | None, told: datetime) -> datetime:
    return told if known is None else min(known, told)
