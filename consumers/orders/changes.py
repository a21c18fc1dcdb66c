"""The changes of an order that are published to subscribers."""

from consumers.orders.decide import Order
from schemas.changes import OrderState


def change_type(before: Order | None, after: Order) -> str:
    """A cancellation is reported whenever it arrives; a creation that arrives after it is only an update."""
    before = before or Order(after.order_id)
    if before.cancelled_at is None and after.cancelled_at is not None:
        kind = "cancelled"
    elif before.created_at is None and after.created_at is not None and after.cancelled_at is None:
        kind = "created"
    else:
        kind = "updated"
    return f"order.{kind}"


def public_state(order: Order) -> OrderState:
    return OrderState(order.order_id, order.created_at, order.cancelled_at)
