"""The differences between a marketplace's row and ours. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

# A sender's last attempt is up to 217 s after the first one; applying it takes seconds.
UNDER_WAY = timedelta(seconds=240)


class Kind(StrEnum):
    """In the order in which they are checked again: possible overselling comes first."""

    DIFFERENT = "different"
    ONLY_HERE = "only here"
    ONLY_THERE = "only there"

    @property
    def rank(self) -> int:
        return list(Kind).index(self)


@dataclass(frozen=True, slots=True)
class Difference:
    """`here` is our table, `there` the marketplace; the instants are the newest known ones."""

    entity_id: str
    kind: Kind
    column: str
    here: str | None
    there: str | None
    here_at: datetime | None
    there_at: datetime | None

    def is_under_way(self, now: datetime) -> bool:
        """Whether an event may still be on its way to us, or the list may be behind its events.

        Applying a list that is behind would undo a sale that was just reported.
        """
        return any(
            timedelta(0) <= now - at < UNDER_WAY for at in (self.here_at, self.there_at) if at is not None
        )
