"""The tables `buyback_orders`, `buyback_items`, `buyback_shipments`."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, get_args

import orjson

from consumers.buybacks.actions import required_actions
from consumers.buybacks.changes import change_type, public_state
from consumers.buybacks.decide import COMMUNICATION_OF, BuybackOrder, decide
from consumers.buybacks.lww import Record
from consumers.buybacks.normalize import Buyback
from consumers.family import Connection, Event, Family, Table, arrays, write

ORDER_COLUMNS = (
    "status",
    "external_order_id",
    "external_reference",
    "submission_external_reference",
    "country",
    "payment_type",
    "customer_name",
    "customer_email",
    "customer_telephone",
    "customer_address",
    "occurred_at",
)
ITEM_COLUMNS = (
    "status",
    "model",
    "brand",
    "category",
    "base_amount",
    "total_amount",
    "currency",
    "rejection_reasons",
)
SHIPMENT_COLUMNS = (
    "carrier",
    "waybill_url",
    "merged_documents_url",
    "pickup_starts_at",
    "pickup_ends_at",
    "is_reschedule",
)

PRIVATE = frozenset(
    {
        "customer_name",
        "customer_email",
        "customer_telephone",
        "customer_address",
        "payment_details",
        "payment_details_encrypted",
        "account_number_ending",
        # Anyone who has these URLs can read the documents of a shipment.
        "waybill_url",
        "merged_documents_url",
    }
)

LOAD_ORDERS = """
SELECT *
FROM buyback_orders
WHERE order_id = ANY($1::text[])
ORDER BY order_id
"""

# The order's row is also the lock of its items and shipments.
LOCK_ORDERS = LOAD_ORDERS + "FOR UPDATE"

LOAD_ITEMS = """
SELECT *
FROM buyback_items
WHERE order_id = ANY($1::text[])
"""

LOAD_SHIPMENTS = """
SELECT *
FROM buyback_shipments
WHERE order_id = ANY($1::text[])
"""

# `unnest` flattens an array of arrays, so the reasons are passed as JSON. Null gives an empty array.
SAVE = """
WITH items AS (
    INSERT INTO buyback_items
        (order_id, item_id, status, model, brand, category, base_amount, total_amount, currency,
         rejection_reasons, stamps)
    SELECT order_id, item_id, status, model, brand, category, base_amount, total_amount, currency,
           ARRAY(SELECT json_array_elements_text(reasons)), stamps
    FROM unnest($19::text[], $20::text[], $21::text[], $22::text[], $23::text[], $24::text[],
                $25::numeric[], $26::numeric[], $27::text[], $28::json[], $29::json[])
        AS item (order_id, item_id, status, model, brand, category, base_amount, total_amount, currency,
                 reasons, stamps)
    ON CONFLICT (order_id, item_id) DO UPDATE
    SET status = excluded.status,
        model = excluded.model,
        brand = excluded.brand,
        category = excluded.category,
        base_amount = excluded.base_amount,
        total_amount = excluded.total_amount,
        currency = excluded.currency,
        rejection_reasons = excluded.rejection_reasons,
        stamps = excluded.stamps
), shipments AS (
    INSERT INTO buyback_shipments
        (order_id, tracking_code, carrier, waybill_url, merged_documents_url, pickup_starts_at,
         pickup_ends_at, is_reschedule, stamps)
    SELECT *
    FROM unnest($30::text[], $31::text[], $32::text[], $33::text[], $34::text[], $35::timestamptz[],
                $36::timestamptz[], $37::boolean[], $38::json[])
    ON CONFLICT (order_id, tracking_code) DO UPDATE
    SET carrier = excluded.carrier,
        waybill_url = excluded.waybill_url,
        merged_documents_url = excluded.merged_documents_url,
        pickup_starts_at = excluded.pickup_starts_at,
        pickup_ends_at = excluded.pickup_ends_at,
        is_reschedule = excluded.is_reschedule,
        stamps = excluded.stamps
)
INSERT INTO buyback_orders AS stored
    (order_id, status, external_order_id, external_reference, submission_external_reference,
     country, payment_type, customer_name, customer_email, customer_telephone, customer_address,
     occurred_at, payment_details_encrypted, account_number_ending, currency, total_amount, stamps,
     revision)
SELECT *
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[],
            $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::json[],
            $12::timestamptz[], $13::text[], $14::text[], $15::text[], $16::numeric[], $17::json[],
            $18::bigint[])
ON CONFLICT (order_id) DO UPDATE
SET status = excluded.status,
    external_order_id = excluded.external_order_id,
    external_reference = excluded.external_reference,
    submission_external_reference = excluded.submission_external_reference,
    country = excluded.country,
    payment_type = excluded.payment_type,
    customer_name = excluded.customer_name,
    customer_email = excluded.customer_email,
    customer_telephone = excluded.customer_telephone,
    customer_address = excluded.customer_address,
    occurred_at = excluded.occurred_at,
    payment_details_encrypted = excluded.payment_details_encrypted,
    account_number_ending = excluded.account_number_ending,
    currency = excluded.currency,
    total_amount = excluded.total_amount,
    stamps = excluded.stamps,
    revision = excluded.revision
WHERE stored.revision = excluded.revision - 1
"""


async def load(
    connection: Connection, events: Sequence[Event[Buyback]], *, lock: bool
) -> dict[str, BuybackOrder]:
    order_ids = sorted({event.payload.entity_id for event in events})
    orders = await connection.fetch(LOCK_ORDERS if lock else LOAD_ORDERS, order_ids)
    if not orders:
        return {}
    items: defaultdict[str, dict[str, Record]] = defaultdict(dict)
    for row in await connection.fetch(LOAD_ITEMS, order_ids):
        items[row["order_id"]][row["item_id"]] = _record(row, ITEM_COLUMNS)
    shipments: defaultdict[str, dict[str, Record]] = defaultdict(dict)
    for row in await connection.fetch(LOAD_SHIPMENTS, order_ids):
        shipments[row["order_id"]][row["tracking_code"]] = _record(row, SHIPMENT_COLUMNS)
    return {
        row["order_id"]: BuybackOrder(
            order_id=row["order_id"],
            order=_order_record(row),
            items=items[row["order_id"]],
            shipments=shipments[row["order_id"]],
            revision=row["revision"],
        )
        for row in orders
    }


async def save(connection: Connection, orders: Collection[BuybackOrder]) -> None:
    """Items and shipments that are stored already are not written again."""
    items = [
        _item_row(order.order_id, item_id, item)
        for order in orders
        for item_id, item in sorted(order.items.items())
        if not item.is_stored
    ]
    shipments = [
        _row(shipment, SHIPMENT_COLUMNS, order.order_id, tracking_code)
        for order in orders
        for tracking_code, shipment in sorted(order.shipments.items())
        if not shipment.is_stored
    ]
    # Two keys stand before the columns, and the stamps after them.
    await write(
        connection,
        SAVE,
        [_order_row(order) for order in orders],
        *arrays(items, len(ITEM_COLUMNS) + 3),
        *arrays(shipments, len(SHIPMENT_COLUMNS) + 3),
    )


def key(payload: Buyback) -> str:
    return payload.entity_id


def _record(row: Mapping[str, Any], columns: tuple[str, ...]) -> Record:
    stamps: dict[str, str] = orjson.loads(row["stamps"])
    values = {column: row[column] for column in columns if column in stamps}
    if "rejection_reasons" in values:
        values["rejection_reasons"] = tuple(values["rejection_reasons"])
    return Record(values, stamps, is_stored=True)


def _order_record(row: Mapping[str, Any]) -> Record:
    record = _record(row, ORDER_COLUMNS)
    if "payment_details" not in record.stamps:
        return record
    details = (row["payment_details_encrypted"], row["account_number_ending"])
    return Record({**record.values, "payment_details": details}, record.stamps)


def _row(record: Record, columns: tuple[str, ...], *keys: str) -> tuple[object, ...]:
    stamps = orjson.dumps(record.stamps, option=orjson.OPT_SORT_KEYS).decode()
    return *keys, *map(record.values.get, columns), stamps


def _order_row(order: BuybackOrder) -> tuple[object, ...]:
    *values, stamps = _row(order.order, ORDER_COLUMNS, order.order_id)
    details = order.order.values.get("payment_details", (None, None))
    assert isinstance(details, tuple)
    return *values, *details, *order.total, stamps, order.revision + 1


def _item_row(order_id: str, item_id: str, item: Record) -> tuple[object, ...]:
    *values, reasons, stamps = _row(item, ITEM_COLUMNS, order_id, item_id)
    return *values, orjson.dumps(reasons).decode() if reasons else None, stamps


BUYBACKS: Family[Buyback, str, BuybackOrder] = Family(
    name="buybacks",
    entity="buyback",
    payloads=get_args(Buyback),
    tables=(
        Table(
            "buyback_orders", key=("order_id",), entity="order_id", encrypted=("payment_details_encrypted",)
        ),
        Table("buyback_items", key=("order_id", "item_id"), entity="order_id"),
        Table("buyback_shipments", key=("order_id", "tracking_code"), entity="order_id"),
    ),
    key=key,
    load=load,
    decide=decide,
    save=save,
    change_type=change_type,
    public_state=public_state,
    required_actions=required_actions,
    communications=tuple(COMMUNICATION_OF.values()),
    private=PRIVATE,
    internal=frozenset({"revision", "stamps", "is_stored"}),
)
