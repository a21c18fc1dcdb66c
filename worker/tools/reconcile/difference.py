"""What can differ between a marketplace and our tables, decided from the two rows alone."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from consumers.inventory.decide import IN_WAREHOUSE, WRITTEN_OFF
from consumers.returns.decide import Return
from schemas.ovoko import NOT_LISTED
from schemas.ovoko_api import ListedPart, OrderReturn

# Ovoko's last attempt at an event comes 217 s after the first; then it is a matter of seconds.
UNDER_WAY = timedelta(seconds=240)


class Kind(StrEnum):
    """In the order in which they are looked at again: what may be oversold comes first."""

    DIFFERENT = "different"
    ONLY_HERE = "only here"
    ONLY_THERE = "only there"

    @property
    def rank(self) -> int:
        return list(Kind).index(self)


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
        """Whether it may settle itself: an event is on its way to us, or the list is behind its events.

        Taken over, a list that is behind would undo the sale of which we have just been told.
        """
        return any(
            timedelta(0) <= now - at < UNDER_WAY for at in (self.here_at, self.there_at) if at is not None
        )


@dataclass(frozen=True, slots=True)
class OurPart:
    """`is_implausible`: its status comes from an implausible timestamp."""

    part_id: str
    status: str
    occurred_at: datetime
    is_implausible: bool = False

    @property
    def told_at(self) -> datetime | None:
        """When the row changed; None if only a wrong timestamp makes it sellable, which must not wait."""
        return None if self.is_implausible and self.status == IN_WAREHOUSE else self.occurred_at


def compare_part(here: OurPart | None, there: ListedPart | None) -> Difference | None:
    """Status for status; what is written off may be missing there."""
    match here, there:
        case None, ListedPart():
            return _only_there(there.part_id, there.status_in_words, there.updated_at)
        case OurPart(status=status), None if status not in (WRITTEN_OFF, NOT_LISTED):
            return _only_here(here.part_id, "status", status, here.told_at)
        case OurPart(status=status), ListedPart() if not there.agrees_with(status):
            return Difference(
                entity_id=here.part_id,
                kind=Kind.DIFFERENT,
                column="status",
                here=status,
                there=there.status_in_words,
                here_at=here.told_at,
                there_at=there.updated_at,
            )
        case _:
            return None


def compare_return(here: Return | None, there: OrderReturn | None) -> Difference | None:
    """A return's order, whether its opening came, whether it is there. (We have no status to compare.)"""
    match here, there:
        case None, OrderReturn():
            return _only_there(there.return_id, there.status, there.created_at)
        case Return(is_gone=False), None:
            return _only_here(here.return_id, "order_id", here.order_id, here.newest)
        case Return(order_id=order_id), OrderReturn() if order_id != there.order_id:
            return _different(here, there, "order_id", order_id, there.order_id)
        case Return(opened_at=None), OrderReturn():
            return _different(here, there, "opened_at", None, _text(there.created_at))
        case Return(is_gone=True), OrderReturn():
            return _different(here, there, "gone_at", _text(here.gone_at), None)
        case _:
            return None


def _only_there(entity_id: str, status: str, at: datetime | None) -> Difference:
    return Difference(entity_id, Kind.ONLY_THERE, "status", None, status, None, at)


def _only_here(entity_id: str, column: str, value: str, at: datetime | None) -> Difference:
    return Difference(entity_id, Kind.ONLY_HERE, column, value, None, at, None)


def _different(
    here: Return, there: OrderReturn, column: str, ours: str | None, theirs: str | None
) -> Difference:
    return Difference(here.return_id, Kind.DIFFERENT, column, ours, theirs, here.newest, there.created_at)


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
