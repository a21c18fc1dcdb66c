"""The statuses of trade-in orders and their items, in one spelling and in the order of a life."""

CREATED = "created"
MISSED_PICKUP = "missed_pickup"

# Source: docs/providers.md. At the same instant, the later in this list is further along.
LIFE = (
    CREATED,
    "pickup_scheduled",
    MISSED_PICKUP,
    "drop_off_pending",
    "in_transit",
    "processing",
    "received",
    "quality_check_failed",
    "finalized",
    "closed",
)

# The platform writes PickupScheduled on an order and PickUpScheduled on its item, and so on:
# letters tell them apart, upper and lower case do not.
_BY_LETTERS = {status.replace("_", ""): status for status in LIFE}
_BY_LETTERS["qualitycheckfail"] = "quality_check_failed"

_RANKS = {status: rank for rank, status in enumerate(LIFE, start=1)}


def in_one_spelling(status: str) -> str:
    """The documented status in snake case; one that is not documented as it came."""
    return _BY_LETTERS.get(status.casefold(), status)


def is_documented(status: str) -> bool:
    return status in _RANKS


def rank(status: str | None) -> int:
    """How far along its life a status is, from 1; 0 for none and for one that is not documented."""
    return _RANKS.get(status, 0) if status else 0
