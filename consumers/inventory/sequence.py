"""Reports unusual sequences of a part's statuses, in the order in which they happened."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from consumers.family import Finding
from consumers.inventory.status import WRITTEN_OFF, StatusChange, StatusReport, is_documented_step
from schemas.ovoko import NOT_LISTED

AFTER_WRITTEN_OFF = "after_written_off"
UNDOCUMENTED_TRANSITION = "undocumented_transition"

# Of more events at one instant the order is unknown: steps to, from and among them are not checked. Without a
# limit, a sender that gives all events of a part the same timestamp would make each event read all others.
MOST_AT_ONCE = 50


class Step(NamedTuple):
    """One change in a sequence. What happened between an observed change and the one before is not known."""

    change: StatusChange
    is_observed: bool

    @classmethod
    def of(cls, report: StatusReport) -> "Step":
        return cls(report.change, report.is_observed)


Steps = tuple[Step, ...]


def instant_of(step: Step) -> datetime:
    return step.change.occurred_at


def count_at(steps: Sequence[Step], instant: datetime) -> int:
    first = bisect_left(steps, instant, key=instant_of)
    return bisect_right(steps, instant, first, key=instant_of) - first


class Context(NamedTuple):
    """What findings about steps depend on besides the steps.

    `written_off_since` is the first instant at which the part was written off. `crowded_at` is an instant
    with more than MOST_AT_ONCE events, even if the steps hold fewer of them.
    """

    part_id: str
    written_off_since: datetime | None
    crowded_at: datetime | None = None


def inserted(steps: Steps, step: Step) -> Steps:
    position = bisect_right(steps, step)
    return (*steps[:position], step, *steps[position:])


def is_crowded(steps: Sequence[Step], instant: datetime) -> bool:
    return len(steps) > MOST_AT_ONCE and count_at(steps, instant) > MOST_AT_ONCE


class Affected(NamedTuple):
    """The steps whose findings a change can add or withdraw: from `begin` to `end`, and later than `after`.

    The steps at `after`, the instant before, are there because later ones are compared with them.
    """

    begin: int
    end: int
    after: datetime | None


def affected(steps: Steps, instant: datetime, until: datetime | None) -> Affected:
    """What a change at an instant affects: its instant, the next one, and all up to `until`."""
    begin = low = bisect_left(steps, instant, key=instant_of)
    after = instant_of(steps[low - 1]) if low else None
    while begin and instant_of(steps[begin - 1]) == after:
        begin -= 1
    end = _end_of_instant(steps, low, instant)
    if end < len(steps):
        end = _end_of_instant(steps, end, instant_of(steps[end]))
    if until is not None:
        end = max(end, bisect_right(steps, until, key=instant_of))
    return Affected(begin, end, after)


def _end_of_instant(steps: Steps, begin: int, instant: datetime) -> int:
    end = begin
    while end < len(steps) and instant_of(steps[end]) == instant:
        end += 1
    return end


def sequence_findings(
    context: Context, steps: Sequence[Step], after: datetime | None = None
) -> Iterator[Finding]:
    """Findings about the steps that are later than `after`."""
    is_observed: dict[StatusChange, bool] = {}
    for change, observed in steps:
        is_observed[change] = observed and is_observed.get(change, True)
    counts = Counter(map(instant_of, steps)) if len(steps) > MOST_AT_ONCE else {}
    before: StatusChange | None = None
    for change, observed in is_observed.items():
        instant = change.occurred_at
        is_ordered = counts.get(instant, 1) <= MOST_AT_ONCE and instant != context.crowded_at
        if after is None or instant > after:
            yield from _step_findings(context, before if is_ordered else None, change, observed)
        before = change if is_ordered else None


def _step_findings(
    context: Context, before: StatusChange | None, after: StatusChange, is_observed: bool
) -> Iterator[Finding]:
    """`before` is None if it is not known."""
    if after.status in (WRITTEN_OFF, NOT_LISTED):
        # A part can be written off, or disappear from the marketplace's list, in any status.
        return
    if context.written_off_since is not None and context.written_off_since < after.occurred_at:
        message = f"{after.status} after written_off"
        yield Finding(AFTER_WRITTEN_OFF, context.part_id, after.event_id, message)
    elif before is not None and not is_observed and not is_documented_step(before.status, after.status):
        message = f"{before.status} became {after.status}"
        yield Finding(UNDOCUMENTED_TRANSITION, context.part_id, after.event_id, message)
