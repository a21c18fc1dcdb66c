"""The table `orders`."""

from collections.abc import Collection, Sequence
from typing import get_args

from consumers.family import Connection, Event, Family, Table, write
from consumers.orders.changes import change_type, public_state
from consumers.orders.decide import Order, OrderPayload, decide

LOAD_ORDERS = """
SELECT order_id, created_at, cancelled_at, revision
FROM orders
WHERE order_id = ANY($1::text[])
ORDER BY order_id
"""

LOCK_ORDERS = LOAD_ORDERS + "FOR UPDATE"

SAVE_ORDERS = """
INSERT INTO orders AS stored (order_id, created_at, cancelled_at, revision)
SELECT *
FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::bigint[])
ON CONFLICT (order_id) DO UPDATE
SET created_at = excluded.created_at,
    cancelled_at = excluded.cancelled_at,
    revision = excluded.revision
WHERE stored.revision = excluded.revision - 1
"""


async def load(
    connection: Connection, events: Sequence[Event[OrderPayload]], *, lock: bool
) -> dict[str, Order]:
    order_ids = sorted({event.payload.entity_id for event in events})
    rows = await connection.fetch(LOCK_ORDERS if lock else LOAD_ORDERS, order_ids)
    return {row["order_id"]: Order(**row) for row in rows}


async def save(connection: Connection, orders: Collection[Order]) -> None:
    rows = [(order.order_id, order.created_at, order.cancelled_at, order.revision + 1) for order in orders]
    await write(connection, SAVE_ORDERS, rows)


def key(payload: OrderPayload) -> str:
    return payload.entity_id


ORDERS: Family[OrderPayload, str, Order] = Family(
    name="orders",
    entity="order",
    payloads=get_args(OrderPayload),
    tables=(Table("orders", key=("order_id",), entity="order_id"),),
    key=key,
    load=load,
    decide=decide,
    save=save,
    change_type=change_type,
    public_state=public_state,
)
