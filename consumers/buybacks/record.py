"""A row whose columns are merged one by one: for each, the newest value that any event told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

Value = str | bool | Decimal | datetime | tuple[str, ...] | tuple[str, str | None]


def stamp(occurred_at: datetime, rank: int, *, settled: bool = True) -> str:
    """How new a value is; stamps compare as strings.

    What is not `settled` yields to everything that is. At the same instant the higher `rank`
    (0 to 99) is the newer one.
    """
    instant = occurred_at.astimezone(UTC).isoformat(timespec="microseconds")
    return f"{int(settled)} {instant} {rank:02}"


@dataclass(frozen=True, slots=True)
class Record:
    """Values by column, and for each the stamp of the event that told it. Nulls are not kept."""

    values: Mapping[str, Value] = field(default_factory=dict)
    stamps: Mapping[str, str] = field(default_factory=dict)

    def merged(self, told_at: str, told: Mapping[str, Value | None]) -> "Record":
        """Take each value that is newer; with equal stamps the greater text, so that order is moot."""
        newer = {
            column: value
            for column, value in told.items()
            if value is not None
            and (
                column not in self.stamps
                or (told_at, str(value)) > (self.stamps[column], str(self.values[column]))
            )
        }
        if not newer:
            return self
        return Record({**self.values, **newer}, {**self.stamps, **dict.fromkeys(newer, told_at)})
