"""A return's details from Ovoko's API: columns of `returns` that no event writes, and `return_items`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any

from consumers.details import SaveResult, newest
from consumers.family import Connection

LOAD_DETAILS = """
SELECT enriched_at, ovoko_status, created_at, total_returnable_amount, currency
FROM returns
WHERE return_id = $1
"""

LOCK_DETAILS = LOAD_DETAILS + "FOR UPDATE"

LOAD_ITEMS = """
SELECT part_id, name, return_reason, price, returnable_amount, currency
FROM return_items
WHERE return_id = $1
ORDER BY position
"""

# Does not change the revision: events that are being applied do not depend on these columns.
SAVE_DETAILS = """
UPDATE returns
SET enriched_at = $2,
    ovoko_status = $3,
    created_at = $4,
    total_returnable_amount = $5,
    currency = $6
WHERE return_id = $1
"""

DELETE_ITEMS = "DELETE FROM return_items WHERE return_id = $1"

# The caller has locked the return's row and deleted its stored items.
SAVE_ITEMS = """
INSERT INTO return_items
    (return_id, position, part_id, name, return_reason, price, returnable_amount, currency)
SELECT $1, position, part_id, name, return_reason, price, returnable_amount, currency
FROM unnest($2::text[], $3::text[], $4::text[], $5::numeric[], $6::numeric[], $7::text[])
    WITH ORDINALITY
    AS item (part_id, name, return_reason, price, returnable_amount, currency, position)
"""


@dataclass(frozen=True, slots=True)
class ReturnItem:
    """One returned thing. Amounts are in `currency`."""

    part_id: str | None
    name: str | None
    return_reason: str | None
    price: Decimal | None
    returnable_amount: Decimal | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class ReturnDetails:
    """As of `enriched_at`, when the request was sent. Holds no data about the customer."""

    enriched_at: datetime
    ovoko_status: str
    created_at: datetime | None
    total_returnable_amount: Decimal | None
    currency: str | None
    items: tuple[ReturnItem, ...]


async def load_details(connection: Connection, return_id: str) -> ReturnDetails | None:
    """None if there is no row, or no answer yet."""
    rows = await connection.fetch(LOAD_DETAILS, return_id)
    return await _details(connection, return_id, rows[0]) if rows else None


async def save_details(connection: Connection, return_id: str, details: ReturnDetails) -> SaveResult:
    """Save details unless newer ones are stored. Run it in a transaction: it locks the row."""
    rows = await connection.fetch(LOCK_DETAILS, return_id)
    if not rows:
        return SaveResult.NO_ROW
    stored = await _details(connection, return_id, rows[0])
    if newest(stored, details) == stored:
        return SaveResult.KNOWN
    await connection.execute(
        SAVE_DETAILS,
        return_id,
        details.enriched_at,
        details.ovoko_status,
        details.created_at,
        details.total_returnable_amount,
        details.currency,
    )
    await connection.execute(DELETE_ITEMS, return_id)
    columns = [[getattr(item, field.name) for item in details.items] for field in fields(ReturnItem)]
    await connection.execute(SAVE_ITEMS, return_id, *columns)
    return SaveResult.SAVED


async def _details(connection: Connection, return_id: str, row: Mapping[str, Any]) -> ReturnDetails | None:
    if row["enriched_at"] is None:
        return None
    items = await connection.fetch(LOAD_ITEMS, return_id)
    return ReturnDetails(**row, items=tuple(ReturnItem(**item) for item in items))
