"""What can differ between a marketplace and our tables, decided from the two rows alone."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

# A sender's last attempt at an event comes up to 217 s after the first; then it is a matter of seconds.
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
