"""What Ovoko's API tells about a part, in columns of `parts` that no event writes."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from consumers.details import Kept, newest
from consumers.family import Connection

LOAD_DETAILS = """
SELECT enriched_at, name, price, currency, manufacturer_code, visible_code, other_code
FROM parts
WHERE part_id = $1
FOR UPDATE
"""

# Leaves the revision alone: an event that is being applied has nothing to do with these columns.
SAVE_DETAILS = """
UPDATE parts
SET enriched_at = $2,
    name = $3,
    price = $4,
    currency = $5,
    manufacturer_code = $6,
    visible_code = $7,
    other_code = $8
WHERE part_id = $1
"""


@dataclass(frozen=True, slots=True)
class PartDetails:
    """As of `enriched_at`, when it was asked for. Amounts are in `currency`."""

    enriched_at: datetime
    name: str | None
    price: Decimal | None
    currency: str | None
    manufacturer_code: str | None
    visible_code: str | None
    other_code: str | None


async def details_of(connection: Connection, part_id: str) -> PartDetails | None:
    """None where there are none yet."""
    rows = await connection.fetch(LOAD_DETAILS, part_id)
    return PartDetails(**rows[0]) if rows and rows[0]["enriched_at"] else None


async def keep_details(connection: Connection, part_id: str, told: PartDetails) -> Kept:
    """In a transaction: which row it is, and what is known, must hold until the commit."""
    rows = await connection.fetch(LOAD_DETAILS, part_id)
    if not rows:
        return Kept.NO_ROW
    known = PartDetails(**rows[0]) if rows[0]["enriched_at"] else None
    if newest(known, told) == known:
        return Kept.KNOWN
    await connection.execute(
        SAVE_DETAILS,
        part_id,
        told.enriched_at,
        told.name,
        told.price,
        told.currency,
        told.manufacturer_code,
        told.visible_code,
        told.other_code,
    )
    return Kept.SAVED
