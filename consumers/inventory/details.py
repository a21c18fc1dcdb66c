"""A part's details from Ovoko's API, in columns of `parts` that no event writes."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from consumers.details import SaveResult, newest
from consumers.family import Connection

LOAD_DETAILS = """
SELECT enriched_at, name, price, currency, manufacturer_code, visible_code, other_code
FROM parts
WHERE part_id = $1
"""

LOCK_DETAILS = LOAD_DETAILS + "FOR UPDATE"

# Does not change the revision: events that are being applied do not depend on these columns.
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
    """As of `enriched_at`, when the request was sent. Amounts are in `currency`."""

    enriched_at: datetime
    name: str | None
    price: Decimal | None
    currency: str | None
    manufacturer_code: str | None
    visible_code: str | None
    other_code: str | None


async def load_details(connection: Connection, part_id: str) -> PartDetails | None:
    """None if there is no row, or no answer yet."""
    rows = await connection.fetch(LOAD_DETAILS, part_id)
    return PartDetails(**rows[0]) if rows and rows[0]["enriched_at"] else None


async def save_details(connection: Connection, part_id: str, details: PartDetails) -> SaveResult:
    """Save details unless newer ones are stored. Run it in a transaction: it locks the row."""
    rows = await connection.fetch(LOCK_DETAILS, part_id)
    if not rows:
        return SaveResult.NO_ROW
    stored = PartDetails(**rows[0]) if rows[0]["enriched_at"] else None
    if newest(stored, details) == stored:
        return SaveResult.KNOWN
    await connection.execute(
        SAVE_DETAILS,
        part_id,
        details.enriched_at,
        details.name,
        details.price,
        details.currency,
        details.manufacturer_code,
        details.visible_code,
        details.other_code,
    )
    return SaveResult.SAVED
