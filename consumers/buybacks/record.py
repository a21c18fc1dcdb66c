"""A row whose columns are merged one by one: for each, the newest value that any event told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache

Value = str | bool | Decimal | datetime | tuple[str, ...] | tuple[str, str | None]


@lru_cache(maxsize=1024)
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
        known_at = self.stamps.get
        newer = {
            column: value
            for column, value in told.items()
            if value is not None
            and (
                (known := known_at(column, "")) < told_at
                or (known == told_at and str(value) > str(self.values[column]))
            )
        }
        if not newer:
            return self
        return Record({**self.values, **newer}, {**self.stamps, **dict.fromkeys(newer, told_at)})
