"""The last hour of each family as charts, from points that the poller keeps: no I/O and no clock."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

HISTORY = timedelta(hours=1)
HISTORY_STEP = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a family's history."""

    at: datetime
    queued: int | None
    applied_per_second: float | None


@dataclass(frozen=True, slots=True)
class Charts:
    """Of each family: waiting events, and events applied per second, the oldest first."""

    waiting: dict[str, list[float | None]]
    applied: dict[str, list[float | None]]


def charts(history: Mapping[str, Iterable[Point]], number: int) -> Charts:
    """Of the last hour, with this many points each."""
    known = {family: tuple(points) for family, points in history.items()}
    return Charts(
        {family: condensed(hour([one.queued for one in known[family]]), number) for family in known},
        {
            family: condensed(hour([one.applied_per_second for one in known[family]]), number)
            for family in known
        },
    )


def hour(points: Sequence[float | None]) -> list[float | None]:
    """A value for each step of the last hour: those before the first point are unknown."""
    return [None] * (HISTORY // HISTORY_STEP - len(points)) + list(points)


def condensed(points: Sequence[float | None], number: int) -> list[float | None]:
    """Fewer points: the maximum of each part of the same length, so that no peak is lost."""
    if len(points) <= number:
        return list(points)
    edges = [round(index * len(points) / number) for index in range(number + 1)]
    parts = (points[start:end] for start, end in pairwise(edges))
    return [max((value for value in part if value is not None), default=None) for part in parts]
