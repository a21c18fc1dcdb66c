"""Last writer wins, column by column: each column has the newest value that an event stated."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from consumers.buybacks.rules import Rule

Value = str | bool | Decimal | datetime | tuple[str, ...] | tuple[str, str | None]

# What one event states: values by column. None means that the event does not state the column.
Columns = Mapping[str, Value | None]

# A stamp is one digit (settled or not), a space, the instant, a space, and the rank in two digits.
_BEFORE_RANK = -2


def instant_of(occurred_at: datetime) -> str:
    """Text that compares as the instants do."""
    return occurred_at.astimezone(UTC).isoformat(timespec="microseconds")


def stamp(instant: str, rank: int, *, settled: bool) -> str:
    """How new a value is; stamps compare as strings.

    A value that is not `settled` yields to every settled one. At the same instant the higher `rank`
    (0 to 99) is newer.
    """
    return f"{settled:d} {instant} {rank:02}"


@dataclass(frozen=True, slots=True)
class Record:
    """Values by column, and for each the stamp of the event that stated it. Nulls are not stored."""

    values: Mapping[str, Value] = field(default_factory=dict)
    stamps: Mapping[str, str] = field(default_factory=dict)

    def merged(
        self, columns: Columns, event_stamp: str, status_stamp: str
    ) -> tuple["Record", frozenset[Rule]]:
        """Take each value that is newer, and say by which rules values were taken or left.

        With equal stamps the greater text wins, so that the order of events makes no difference. The column
        `status` has a stamp of its own.
        """
        values, stamps = dict(self.values), dict(self.stamps)
        rules: set[Rule] = set()
        for column, value in columns.items():
            if value is None:
                continue
            new = status_stamp if column == "status" else event_stamp
            known = stamps.get(column)
            if known is None:
                rules.add(Rule.NEW_COLUMN)
            elif known != new:
                rules.add(_rule(known, new))
            elif value == values[column]:
                rules.add(Rule.REPEATED)
            else:
                rules.add(Rule.GREATER_TEXT)
            if known is None or known < new or (known == new and str(value) > str(values[column])):
                values[column] = value
                stamps[column] = new
        return Record(values, stamps), frozenset(rules)


def _rule(known: str, new: str) -> Rule:
    if known[0] != new[0]:
        return Rule.CREATED_YIELDS
    if known[:_BEFORE_RANK] == new[:_BEFORE_RANK]:
        return Rule.FURTHER_ALONG
    return Rule.NEWEST if known < new else Rule.OLDER
