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
    """Values by column, and for each the stamp of the event that stated it. Nulls are not stored.

    `is_stored` says that a row of the table has exactly these values and stamps.
    """

    values: Mapping[str, Value] = field(default_factory=dict)
    stamps: Mapping[str, str] = field(default_factory=dict)
    is_stored: bool = field(default=False, compare=False)

    def merged(
        self, columns: Columns, event_stamp: str, status_stamp: str
    ) -> tuple["Record", frozenset[Rule]]:
        """Take each value that is newer, and say by which rules values were taken or left.

        With equal stamps the greater text wins, so that the order of events makes no difference. The column
        `status` has a stamp of its own. The same record is returned if nothing is taken.
        """
        values, stamps = dict(self.values), dict(self.stamps)
        # Columns share few stamps, so each pair of a known and a new one is judged once.
        compared: set[tuple[str | None, str]] = set()
        rules: set[Rule] = set()
        is_changed = False
        for column, value in columns.items():
            if value is None:
                continue
            new = status_stamp if column == "status" else event_stamp
            known = stamps.get(column)
            if known == new:
                rules.add(Rule.REPEATED if value == values[column] else Rule.GREATER_TEXT)
                if str(value) <= str(values[column]):
                    continue
            else:
                compared.add((known, new))
                if known is not None and known > new:
                    continue
            values[column] = value
            stamps[column] = new
            is_changed = True
        rules.update(_rule(known, new) for known, new in compared)
        return Record(values, stamps) if is_changed else self, frozenset(rules)


def _rule(known: str | None, new: str) -> Rule:
    if known is None:
        return Rule.NEW_COLUMN
    if known[0] != new[0]:
        return Rule.CREATED_YIELDS
    if known[:_BEFORE_RANK] == new[:_BEFORE_RANK]:
        return Rule.FURTHER_ALONG
    return Rule.NEWEST if known < new else Rule.OLDER
