"""What subscribers are told of a trade-in."""

from dataclasses import fields
from typing import Any

from consumers.buybacks import status
from consumers.buybacks.decide import BuybackOrder
from consumers.buybacks.lww import Record
from schemas.changes import BuybackItemState, BuybackShipmentState, BuybackState

_ITEM_FIELDS = tuple(field.name for field in fields(BuybackItemState))[1:]
_SHIPMENT_FIELDS = tuple(field.name for field in fields(BuybackShipmentState))[1:]


def change_type(before: BuybackOrder | None, after: BuybackOrder) -> str:
    """By the order's status where it changed; what changed of its items alone is an update."""
    said = after.order.values.get("status")
    changed = before is None or before.order.values.get("status") != said
    kind = said if changed and isinstance(said, str) and status.is_documented(said) else "updated"
    return f"buyback.{kind}"


def public_state(known: BuybackOrder) -> BuybackState:
    values: Any = known.order.values
    currency, total = known.total
    return BuybackState(
        order_id=known.order_id,
        status=values.get("status"),
        occurred_at=values.get("occurred_at"),
        external_order_id=values.get("external_order_id"),
        external_reference=values.get("external_reference"),
        payment_type=values.get("payment_type"),
        total_amount=total,
        currency=currency,
        items=tuple(
            BuybackItemState(item_id, *_chosen(item, _ITEM_FIELDS))
            for item_id, item in sorted(known.items.items())
        ),
        shipments=tuple(
            BuybackShipmentState(tracking_code, *_chosen(shipment, _SHIPMENT_FIELDS))
            for tracking_code, shipment in sorted(known.shipments.items())
        ),
    )


def _chosen(record: Record, columns: tuple[str, ...]) -> Any:
    return map(record.values.get, columns)
