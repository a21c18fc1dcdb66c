"""Field types that both marketplaces' payloads are built from."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field


def _as_utc(instant: datetime) -> datetime:
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _written_out(amount: Decimal) -> Decimal:
    """The same number as Postgres returns it: without an exponent."""
    return Decimal(format(amount, "f"))


def canonical_id(value: object) -> object:
    """One spelling of an id, whether it came as a number or as text: 13, 13.0 and " 13 " are "13"."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, Decimal):
        digits = format(value, "f")
        return digits.rstrip("0").rstrip(".") if "." in digits else digits
    return value


def _optional_id(value: object) -> object:
    """Some senders send an empty text for an unknown id."""
    spelled = canonical_id(value)
    return None if spelled == "" else spelled


def _none_as_null(value: object) -> object:
    return None if value == "None" else value


# Postgres text cannot hold NUL, so a string with one breaks the schema instead of the transaction.
Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]

# Ids and statuses are index keys: 200 characters stay far below the 2 704 bytes of a B-tree entry.
Key = Annotated[str, Field(pattern=r"^[^\x00]+$", max_length=200)]

# An id is compared, as text, with the same id that came another time, perhaps as a number.
Id = Annotated[Key, BeforeValidator(canonical_id)]

OptionalId = Annotated[Key | None, BeforeValidator(_optional_id)]

# Naive instants are UTC (as one marketplace documents); digits beyond microseconds are cut off.
# The bounds keep every instant, whatever its offset, within what Python and Postgres can both say.
Instant = Annotated[
    datetime,
    Field(ge=datetime(1970, 1, 2), le=datetime(9999, 12, 30)),
    AfterValidator(_as_utc),
]

Money = Annotated[
    Decimal,
    Field(max_digits=24, decimal_places=8, allow_inf_nan=False),
    AfterValidator(_written_out),
]

# Of an answer that is only read: a sender that prints its floats in full is not refused.
Amount = Annotated[Decimal, Field(max_digits=60, allow_inf_nan=False)]

Days = Annotated[int, Field(ge=0, le=32_767)]

# One marketplace sends the word None for null.
NullableKey = Annotated[Key | None, BeforeValidator(_none_as_null)]
