"""Which rule made an order's event count, in words."""

from consumers.family import Event
from consumers.orders.decide import Order
from schemas.ovoko import OrderCancelled, OrderCreated


def why(order: Order | None, event: Event[OrderCreated | OrderCancelled]) -> str:
    """The rule by which `decide` takes an event or leaves it."""
    match event.payload:
        case OrderCreated():
            known, what = order.created_at if order else None, "creation"
        case OrderCancelled():
            known, what = order.cancelled_at if order else None, "cancellation"
    if known is None:
        return f"the first {what} that is known"
    if event.instant < known:
        return f"the earliest {what} stands, and this one is earlier"
    return f"the earliest {what} stands, and an earlier one is known"
