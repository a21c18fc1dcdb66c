"""What Ovoko's API tells about a return, in columns of `returns` that no event writes, and its items."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any

from consumers.details import Kept, newest
from consumers.family import Connection

LOAD_DETAILS = """
SELECT enriched_at, ovoko_status, created_at, total_returnable_amount, currency
FROM returns
WHERE return_id = $1
FOR UPDATE
"""

LOAD_ITEMS = """
SELECT part_id, name, return_reason, price, returnable_amount, currency
FROM return_items
WHERE return_id = $1
ORDER BY position
"""

# Leaves the revision alone: an event that is being applied has nothing to do with these columns.
SAVE_DETAILS = """
UPDATE returns
SET enriched_at = $2,
    ovoko_status = $3,
    created_at = $4,
    total_returnable_amount = $5,
    currency = $6
WHERE return_id = $1
"""

FORGET_ITEMS = "DELETE FROM return_items WHERE return_id = $1"

# Who runs it holds the return's row, and has just forgotten the items that were known.
SAVE_ITEMS = """
INSERT INTO return_items
    (return_id, position, part_id, name, return_reason, price, returnable_amount, currency)
SELECT $1, position, part_id, name, return_reason, price, returnable_amount, currency
FROM unnest($2::text[], $3::text[], $4::text[], $5::numeric[], $6::numeric[], $7::text[])
    WITH ORDINALITY
    AS told (part_id, name, return_reason, price, returnable_amount, currency, position)
"""


@dataclass(frozen=True, slots=True)
class ReturnItem:
    """One thing that comes back. Amounts are in `currency`."""

    part_id: str | None
    name: str | None
    return_reason: str | None
    price: Decimal | None
    returnable_amount: Decimal | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class ReturnDetails:
    """As of `enriched_at`, when it was asked for; `created_at` is Ovoko's. Of the customer nothing."""

    enriched_at: datetime
    ovoko_status: str
    created_at: datetime | None
    total_returnable_amount: Decimal | None
    currency: str | None
    items: tuple[ReturnItem, ...]


async def details_of(connection: Connection, return_id: str) -> ReturnDetails | None:
    """None where there are none yet."""
    rows = await connection.fetch(LOAD_DETAILS, return_id)
    return await _known(connection, return_id, rows[0]) if rows else None


async def keep_details(connection: Connection, return_id: str, told: ReturnDetails) -> Kept:
    """In a transaction: which row it is, and what is known, must hold until the commit."""
    rows = await connection.fetch(LOAD_DETAILS, return_id)
    if not rows:
        return Kept.NO_ROW
    known = await _known(connection, return_id, rows[0])
    if newest(known, told) == known:
        return Kept.KNOWN
    await connection.execute(
        SAVE_DETAILS,
        return_id,
        told.enriched_at,
        told.ovoko_status,
        told.created_at,
        told.total_returnable_amount,
        told.currency,
    )
    await connection.execute(FORGET_ITEMS, return_id)
    columns = [[getattr(item, field.name) for item in told.items] for field in fields(ReturnItem)]
    await connection.execute(SAVE_ITEMS, return_id, *columns)
    return Kept.SAVED


async def _known(connection: Connection, return_id: str, row: Mapping[str, Any]) -> ReturnDetails | None:
    if row["enriched_at"] is None:
        return None
    items = await connection.fetch(LOAD_ITEMS, return_id)
    return ReturnDetails(**row, items=tuple(ReturnItem(**item) for item in items))
