"""Normalizes an event's payload into the columns of an order, its items and its shipments."""

from collections.abc import Mapping
from dataclasses import dataclass

from consumers.buybacks.lww import Columns, Value
from consumers.buybacks.status import in_one_spelling
from schemas import buyback
from schemas.buyback import (
    Address,
    Customer,
    DropOffPending,
    InspectedItem,
    InspectionResult,
    Item,
    ItemFinalized,
    ItemInTransit,
    ItemReceived,
    OrderCreated,
    PaymentDetailsCreated,
    PickupMissed,
    PickupScheduled,
    PickupScheduledResult,
    QualityCheckFailed,
    Shipment,
    ShipmentResult,
    TelephoneNumber,
)

Buyback = (
    OrderCreated
    | PickupScheduled
    | PickupMissed
    | DropOffPending
    | ItemInTransit
    | ItemReceived
    | QualityCheckFailed
    | ItemFinalized
    | PaymentDetailsCreated
)

# The status of the order and of the item that an event names, if the event prints no status. The event of an
# inspection concerns only its item.
_IMPLIED: dict[type[Buyback], tuple[str | None, str | None]] = {
    OrderCreated: ("created", "created"),
    PickupScheduled: ("pickup_scheduled", "pickup_scheduled"),
    PickupMissed: ("missed_pickup", "missed_pickup"),
    DropOffPending: ("drop_off_pending", "drop_off_pending"),
    ItemInTransit: ("in_transit", "in_transit"),
    ItemReceived: ("processing", "received"),
    QualityCheckFailed: (None, "quality_check_failed"),
    ItemFinalized: (None, "finalized"),
    PaymentDetailsCreated: (None, None),
}


@dataclass(frozen=True, slots=True)
class NormalizedEvent:
    """Columns of the order, of items by id, and of shipments by tracking code.

    `stray_item_id` is an item that the event names and that is missing in the event's own snapshot.
    """

    order: Columns
    items: Mapping[str, Columns]
    shipments: Mapping[str, Columns]
    stray_item_id: str | None = None


def normalize(payload: Buyback) -> NormalizedEvent:
    order_status, item_status = _IMPLIED[type(payload)]
    result = payload.result
    if isinstance(result, InspectionResult):
        return NormalizedEvent(_inspected_order(result), _inspected_items(result, item_status), {})
    shipments = _shipments(result)
    if result.order is None:
        item: dict[str, Columns] = {result.item_id: {"status": item_status}} if result.item_id else {}
        return NormalizedEvent({"status": order_status}, item, shipments)
    items = {
        item.id: _item(item, item_status if result.item_id in (None, item.id) else None)
        for item in result.order.items or ()
    }
    stray = result.item_id if result.item_id not in items else None
    return NormalizedEvent(_order(result.order, order_status), items, shipments, stray_item_id=stray)


def _order(order: buyback.Order, implied: str | None) -> Columns:
    return {
        "status": in_one_spelling(order.status) if order.status else implied,
        "external_order_id": order.external_order_id,
        "external_reference": order.external_reference,
        "submission_external_reference": order.submission_external_reference,
        "country": order.country_of_origin,
        "payment_type": order.payment_type,
        **_customer(order.customer_information),
    }


def _inspected_order(result: InspectionResult) -> Columns:
    return {
        "external_reference": result.external_reference,
        "submission_external_reference": result.submission_external_reference,
        "country": result.country_iso_code,
        "payment_type": result.payment_type,
        **_customer(result.customer_information),
    }


def _customer(customer: Customer | None) -> Columns:
    if customer is None:
        return {}
    names = [name for name in (customer.first_name, customer.last_name) if name]
    details = customer.customer_payment_details
    return {
        "customer_name": " ".join(names) or None,
        "customer_email": customer.email,
        "customer_telephone": _telephone(customer.telephone_number),
        "customer_address": _address(customer.address),
        # One value: the last four characters and the encrypted details must be of the same account.
        "payment_details": (details.sealed, details.account_number_ending) if details else None,
    }


def _telephone(telephone: TelephoneNumber | None) -> str | None:
    if telephone is None or not telephone.number:
        return None
    code = telephone.country_code or ""
    return f"+{code} {telephone.number}" if code.isdigit() else f"{code} {telephone.number}".strip()


def _address(address: Address | None) -> str | None:
    fields = address.model_dump_json(by_alias=True, exclude_none=True) if address else "{}"
    return None if fields == "{}" else fields


def _item(item: Item, implied: str | None) -> Columns:
    offer = item.winning_offer
    base = offer.base_price if offer else None
    total = offer.total_price if offer else None
    return {
        "status": in_one_spelling(item.status) if item.status else implied,
        "model": item.model,
        "brand": item.brand.name if item.brand else None,
        "category": item.category.name if item.category else None,
        "rejection_reasons": item.rejection_reasons,
        **_amounts(base, total),
    }


def _inspected_items(result: InspectionResult, implied: str | None) -> dict[str, Columns]:
    """Items by id. `itemId` names the item; a single entry with another id describes that item too."""
    entries = {entry.id: entry for entry in result.items or ()}
    if result.item_id is None:
        return {item_id: _inspected_item(entry, None) for item_id, entry in entries.items()}
    if result.item_id not in entries and len(entries) == 1:
        entries = {result.item_id: next(iter(entries.values()))}
    items = {
        item_id: _inspected_item(entry, implied if item_id == result.item_id else None)
        for item_id, entry in entries.items()
    }
    described = items.get(result.item_id, {"status": implied})
    return {**items, result.item_id: {**described, "rejection_reasons": result.rejection_reasons}}


def _inspected_item(item: InspectedItem, implied: str | None) -> Columns:
    return {
        "status": in_one_spelling(item.status) if item.status else implied,
        "model": item.model,
        "brand": item.brand_name,
        "category": item.category_name,
        **_amounts(item.customer_price, item.total_value),
    }


def _amounts(base: buyback.Price | None, total: buyback.Price | None) -> Columns:
    return {
        "base_amount": base.amount if base else None,
        "total_amount": total.amount if total else None,
        # Columns with the total alone, so that the two are always of one event.
        "currency": total.currency_iso_code if total else None,
    }


def _shipments(result: buyback.Result) -> dict[str, Columns]:
    """Shipments by tracking code; the event's own shipment last, because it has the most columns."""
    listed = result.order.shipments or () if result.order else ()
    shipments: dict[str, Columns] = {
        shipment.tracking_code: _shipment(shipment) for shipment in listed if shipment.tracking_code
    }
    own = result.shipment if isinstance(result, ShipmentResult) else None
    if own and own.tracking_code:
        shipments[own.tracking_code] = {**_shipment(own), **_pickup(result)}
    return shipments


def _shipment(shipment: Shipment) -> dict[str, Value | None]:
    return {
        "carrier": shipment.carrier,
        "waybill_url": shipment.waybill_url,
        "merged_documents_url": shipment.merged_documents,
    }


def _pickup(result: buyback.Result) -> dict[str, Value | None]:
    if not isinstance(result, PickupScheduledResult):
        return {}
    return {
        "pickup_starts_at": result.initial_slot,
        "pickup_ends_at": result.final_slot,
        "is_reschedule": result.is_reschedule,
    }
