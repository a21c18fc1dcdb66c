"""The table `orders`."""

from collections.abc import Collection, Sequence

from consumers.family import Connection, Event, Family, write
from consumers.orders.changes import change_type, public_state
from consumers.orders.decide import Order, decide
from consumers.orders.why import why
from schemas.ovoko import OrderCancelled, OrderCreated

LOAD_ORDERS = """
SELECT order_id, created_at, cancelled_at, revision
FROM orders
WHERE order_id = ANY($1::text[])
ORDER BY order_id
FOR UPDATE
"""

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
    connection: Connection, events: Sequence[Event[OrderCreated | OrderCancelled]]
) -> dict[str, Order]:
    order_ids = sorted({event.payload.entity_id for event in events})
    rows = await connection.fetch(LOAD_ORDERS, order_ids)
    return {row["order_id"]: Order(**row) for row in rows}


async def save(connection: Connection, orders: Collection[Order]) -> None:
    rows = [(order.order_id, order.created_at, order.cancelled_at, order.revision + 1) for order in orders]
    await write(connection, SAVE_ORDERS, rows)


def key(payload: OrderCreated | OrderCancelled) -> str:
    return payload.entity_id


ORDERS: Family[OrderCreated | OrderCancelled, str, Order] = Family(
    name="orders",
    payloads=(OrderCreated, OrderCancelled),
    key=key,
    load=load,
    decide=decide,
    save=save,
    why=why,
    change_type=change_type,
    public_state=public_state,
)
