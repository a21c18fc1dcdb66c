"""What a marketplace showed of one entity, as the body of an event of its own kind."""

from datetime import datetime, timedelta

import orjson

from consumers.returns.decide import Return
from schemas.ovoko import NOT_LISTED
from schemas.ovoko_api import ListedPart, OrderReturn
from worker.tools.reconcile.difference import OurPart

# What happens while we ask must win over what we see. Ovoko's clock has whole seconds, and may differ a
# little from ours.
MARGIN = timedelta(seconds=2)


def seen_at(asked_at: datetime) -> datetime:
    """From when on an event is newer than what we see; `asked_at` is by our clock."""
    return (asked_at - MARGIN).replace(microsecond=0)


def part_observed(here: OurPart | None, there: ListedPart | None, asked_at: datetime) -> bytes:
    """Of a part that is somewhere."""
    known = there or here
    assert known is not None, "it is somewhere"
    return _body(
        "stockhook.observed.part",
        asked_at,
        {
            "part_id": known.part_id,
            "status": NOT_LISTED if there is None else there.status_as_told,
            "external_id": None if there is None else there.merchants_id,
        },
    )


def return_observed(here: Return | None, there: OrderReturn | None, asked_at: datetime) -> bytes:
    """Of a return that is somewhere; its order is the marketplace's where that knows it."""
    known = there or here
    assert known is not None, "it is somewhere"
    return _body(
        "stockhook.observed.return",
        asked_at,
        {
            "return_id": known.return_id,
            "order_id": known.order_id,
            "is_listed": there is not None,
            "created_at": None if there is None else there.created_at,
        },
    )


def _body(event_type: str, asked_at: datetime, seen: dict[str, object]) -> bytes:
    return orjson.dumps(
        {"event_type": event_type, "timestamp": seen_at(asked_at), "event_data": seen},
        option=orjson.OPT_UTC_Z,
    )
