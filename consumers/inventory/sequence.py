"""Reports unusual sequences of a part's statuses, in the order in which they happened."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
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


def affected(steps: Steps, instant: datetime, until: datetime | None) -> tuple[int, int, int]:
    """The steps whose findings a change at an instant can add or withdraw.

    These are the steps at its instant, at the next one, and all up to `until`. The first of three positions
    is where the steps at the instant before begin, with which they are compared; the others are where the
    affected steps begin and end.
    """
    compared = begin = bisect_left(steps, instant, key=instant_of)
    before = instant_of(steps[begin - 1]) if begin else None
    while compared and instant_of(steps[compared - 1]) == before:
        compared -= 1
    end = begin
    if end < len(steps):
        end = _end_of_instant(steps, end, instant)
    if end < len(steps):
        end = _end_of_instant(steps, end, instant_of(steps[end]))
    if until is not None:
        end = max(end, bisect_right(steps, until, key=instant_of))
    return compared, begin, end


def _end_of_instant(steps: Steps, begin: int, instant: datetime) -> int:
    end = begin
    while end < len(steps) and instant_of(steps[end]) == instant:
        end += 1
    return end


def sequence_findings(context: Context, steps: Sequence[Step], begin: int = 0) -> list[Finding]:
    """Findings about sorted steps, from the position `begin` on."""
    counts = Counter(map(instant_of, steps)) if len(steps) > MOST_AT_ONCE else {}
    findings: list[Finding] = []
    before: StatusChange | None = None
    previous: StatusChange | None = None
    for position, (change, is_observed) in enumerate(steps):
        if change == previous:
            # The same change again. If one of them was not observed, it was the first.
            continue
        previous = change
        instant = change.occurred_at
        is_ordered = counts.get(instant, 1) <= MOST_AT_ONCE and instant != context.crowded_at
        if position >= begin:
            finding = _finding(context, before if is_ordered else None, change, is_observed)
            if finding is not None:
                findings.append(finding)
        before = change if is_ordered else None
    return findings


def _finding(
    context: Context, before: StatusChange | None, after: StatusChange, is_observed: bool
) -> Finding | None:
    """`before` is None if it is not known."""
    if after.status in (WRITTEN_OFF, NOT_LISTED):
        # A part can be written off, or disappear from the marketplace's list, in any status.
        return None
    if context.written_off_since is not None and context.written_off_since < after.occurred_at:
        message = f"{after.status} after written_off"
        return Finding(AFTER_WRITTEN_OFF, context.part_id, after.event_id, message)
    if before is None or is_observed or is_documented_step(before.status, after.status):
        return None
    message = f"{before.status} became {after.status}"
    return Finding(UNDOCUMENTED_TRANSITION, context.part_id, after.event_id, message)
