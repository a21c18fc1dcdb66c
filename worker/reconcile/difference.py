"""What can differ between a marketplace and our tables, decided from the two rows alone."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from schemas.ovoko_api import ListedPart, OrderReturn

# Ovoko's last attempt at an event comes 217 s after the first; then it is a matter of seconds.
UNDER_WAY = timedelta(seconds=240)


class Kind(StrEnum):
    """In the order in which they are looked at again: what may be oversold comes first."""

    DIFFERENT = "different"
    ONLY_HERE = "only here"
    ONLY_THERE = "only there"


@dataclass(frozen=True, slots=True)
class Difference:
    """`here` is our table, `there` the marketplace; the instants are the newest known of each."""

    entity_id: str
    kind: Kind
    column: str
    here: str | None
    there: str | None
    here_at: datetime | None
    there_at: datetime | None

    def is_under_way(self, now: datetime) -> bool:
        """Whether the event that brings it may still be on its way to us."""
        return self.there_at is not None and timedelta(0) <= now - self.there_at < UNDER_WAY


@dataclass(frozen=True, slots=True)
class OurPart:
    part_id: str
    status: str
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class OurReturn:
    return_id: str
    order_id: str
    opened_at: datetime | None
    updated_at: datetime | None

    @property
    def newest(self) -> datetime | None:
        return max((at for at in (self.opened_at, self.updated_at) if at is not None), default=None)


def compare_part(here: OurPart | None, there: ListedPart | None) -> Difference | None:
    """Status for status; neither side may lack the part."""
    match here, there:
        case None, ListedPart():
            status, at = there.status_in_words, there.updated_at
            return Difference(there.part_id, Kind.ONLY_THERE, "status", None, status, None, at)
        case OurPart(), None:
            status, at = here.status, here.occurred_at
            return Difference(here.part_id, Kind.ONLY_HERE, "status", status, None, at, None)
        case OurPart(), ListedPart() if not there.agrees_with(here.status):
            return Difference(
                here.part_id,
                Kind.DIFFERENT,
                "status",
                here.status,
                there.status_in_words,
                here.occurred_at,
                there.updated_at,
            )
        case _:
            return None


def compare_return(here: OurReturn | None, there: OrderReturn | None) -> Difference | None:
    """A return's order, and whether its opening came to us. (Our table has no status to compare.)"""
    match here, there:
        case None, OrderReturn():
            status, at = there.status, there.created_at
            return Difference(there.return_id, Kind.ONLY_THERE, "status", None, status, None, at)
        case OurReturn(), None:
            order_id, at = here.order_id, here.newest
            return Difference(here.return_id, Kind.ONLY_HERE, "order_id", order_id, None, at, None)
        case OurReturn(), OrderReturn() if here.order_id != there.order_id:
            return _different(here, there, "order_id", here.order_id, there.order_id)
        case OurReturn(), OrderReturn() if here.opened_at is None:
            opened_at = None if there.created_at is None else there.created_at.isoformat()
            return _different(here, there, "opened_at", None, opened_at)
        case _:
            return None


def _different(
    here: OurReturn, there: OrderReturn, column: str, ours: str | None, theirs: str | None
) -> Difference:
    return Difference(here.return_id, Kind.DIFFERENT, column, ours, theirs, here.newest, there.created_at)
