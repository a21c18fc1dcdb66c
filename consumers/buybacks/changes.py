"""The changes of a buyback order that are published to subscribers."""

from dataclasses import fields
from typing import Any

from consumers.buybacks import status
from consumers.buybacks.decide import BuybackOrder
from consumers.buybacks.lww import Record
from schemas.changes import BuybackItemState, BuybackShipmentState, BuybackState

_ITEM_FIELDS = tuple(field.name for field in fields(BuybackItemState))[1:]
_SHIPMENT_FIELDS = tuple(field.name for field in fields(BuybackShipmentState))[1:]


def change_type(before: BuybackOrder | None, after: BuybackOrder) -> str:
    """The order's new status; `buyback.updated` if only its items or shipments changed."""
    new = after.order.values.get("status")
    is_changed = before is None or before.order.values.get("status") != new
    kind = new if is_changed and isinstance(new, str) and status.is_documented(new) else "updated"
    return f"buyback.{kind}"


def public_state(state: BuybackOrder) -> BuybackState:
    values: Any = state.order.values
    currency, total = state.total
    return BuybackState(
        order_id=state.order_id,
        status=values.get("status"),
        occurred_at=values.get("occurred_at"),
        external_order_id=values.get("external_order_id"),
        external_reference=values.get("external_reference"),
        payment_type=values.get("payment_type"),
        total_amount=total,
        currency=currency,
        items=tuple(
            BuybackItemState(item_id, *_values(item, _ITEM_FIELDS))
            for item_id, item in sorted(state.items.items())
        ),
        shipments=tuple(
            BuybackShipmentState(tracking_code, *_values(shipment, _SHIPMENT_FIELDS))
            for tracking_code, shipment in sorted(state.shipments.items())
        ),
    )


def _values(record: Record, columns: tuple[str, ...]) -> Any:
    return map(record.values.get, columns)
