"""A row whose columns are merged one by one: for each, the newest value that any event told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

Value = str | bool | Decimal | datetime | tuple[str, ...] | tuple[str, str | None]


def instant_of(occurred_at: datetime) -> str:
    """As text that compares as the instants do."""
    return occurred_at.astimezone(UTC).isoformat(timespec="microseconds")


def stamp(instant: str, rank: int, *, settled: bool) -> str:
    """How new a value is; stamps compare as strings.

    What is not `settled` yields to everything that is. At the same instant the higher `rank`
    (0 to 99) is the newer one.
    """
    return f"{settled:d} {instant} {rank:02}"


@dataclass(frozen=True, slots=True)
class Record:
    """Values by column, and for each the stamp of the event that told it. Nulls are not kept."""

    values: Mapping[str, Value] = field(default_factory=dict)
    stamps: Mapping[str, str] = field(default_factory=dict)

    def merged(self, told: Mapping[str, Value | None], told_at: str, status_at: str) -> "Record":
        """Take each value that is newer; with equal stamps the greater text, so that order is moot.

        The column `status` has a stamp of its own.
        """
        values, stamps = dict(self.values), dict(self.stamps)
        for column, value in told.items():
            if value is None:
                continue
            at = status_at if column == "status" else told_at
            known = stamps.get(column, "")
            if known < at or (known == at and str(value) > str(values[column])):
                values[column] = value
                stamps[column] = at
        return Record(values, stamps)
