"""What a marketplace showed of one entity, as the body of an event of its own kind."""

from datetime import datetime, timedelta

import orjson

from schemas.ovoko import NOT_LISTED
from schemas.ovoko_api import ListedPart, OrderReturn

# What happens while we ask must win over what we see. Ovoko's clock has whole seconds, and may differ a
# little from ours.
MARGIN = timedelta(seconds=2)


def seen_at(asked_at: datetime) -> datetime:
    """From when on an event is newer than what we see; `asked_at` is by our clock."""
    return (asked_at - MARGIN).replace(microsecond=0)


def part_observed(part_id: str, there: ListedPart | None, asked_at: datetime) -> bytes:
    return _body(
        "stockhook.observed.part",
        asked_at,
        {
            "part_id": part_id,
            "status": NOT_LISTED if there is None else there.status_as_told,
            "external_id": None if there is None else there.merchants_id,
        },
    )


def return_observed(return_id: str, order_id: str, there: OrderReturn | None, asked_at: datetime) -> bytes:
    """`order_id` is the one that we know; the marketplace's stands where it knows the return."""
    return _body(
        "stockhook.observed.return",
        asked_at,
        {
            "return_id": return_id,
            "order_id": order_id if there is None else there.order_id,
            "is_listed": there is not None,
            "created_at": None if there is None else there.created_at,
        },
    )


def _body(event_type: str, asked_at: datetime, seen: dict[str, object]) -> bytes:
    return orjson.dumps(
        {"event_type": event_type, "timestamp": seen_at(asked_at), "event_data": seen},
        option=orjson.OPT_UTC_Z,
    )
