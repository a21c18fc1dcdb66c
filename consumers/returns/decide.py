"""When a return was opened, and how often it was updated since."""

from dataclasses import dataclass, replace
from datetime import datetime

from consumers.family import Decision, Event, Finding
from schemas.ovoko import ReturnCreated, ReturnUpdated


@dataclass(frozen=True, slots=True)
class Return:
    """A return's row. `update_count` counts distinct update events."""

    return_id: str
    order_id: str
    opened_at: datetime | None = None
    updated_at: datetime | None = None
    update_count: int = 0
    revision: int = 0


def decide(known: Return | None, event: Event[ReturnCreated | ReturnUpdated]) -> Decision[Return]:
    """Opened at the earliest creation, updated at the latest update.

    A return belongs to one order. Where events disagree, the greater order id stands, so that the
    order of arrival makes no difference.
    """
    payload = event.payload
    data = payload.event_data
    known = known or Return(data.return_id, data.order_id)
    after = replace(known, order_id=max(known.order_id, data.order_id))
    findings = () if known.order_id == data.order_id else (_two_orders(data.return_id),)
    match payload:
        case ReturnCreated():
            opened_at = min(payload.timestamp, known.opened_at or payload.timestamp)
            return Decision(replace(after, opened_at=opened_at), findings)
        case ReturnUpdated():
            updated_at = max(payload.timestamp, known.updated_at or payload.timestamp)
            count = known.update_count + 1
            return Decision(replace(after, updated_at=updated_at, update_count=count), findings)


def _two_orders(return_id: str) -> Finding:
    return Finding("return_of_two_orders", return_id, None, "its events name different orders")
