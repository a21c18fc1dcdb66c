"""A part's row, and what is known of its earlier events."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from consumers.inventory.sequence import Steps, is_crowded
from consumers.inventory.status import IN_WAREHOUSE, WRITTEN_OFF, StatusChange, StatusReport


class Received(NamedTuple):
    change: StatusChange
    received_at: datetime


class Reports(NamedTuple):
    """What the status of a part with implausible timestamps is decided from, out of any number of events.

    - `newest`: the newest plausible change, with the last of its receptions.
    - `last`: the plausible change that was received last.
    - `warning`: the last implausible change that speaks against selling; it counts from its reception.
    """

    newest: Received | None = None
    last: Received | None = None
    warning: StatusChange | None = None

    def adding(self, report: StatusReport) -> "Reports":
        change = report.change
        if report.is_plausible:
            received = Received(change, report.received_at)
            return Reports(
                received if self.newest is None else max(self.newest, received),
                received if self.last is None else max(self.last, received, key=_by_reception),
                self.warning,
            )
        if change.status == IN_WAREHOUSE:
            return self
        return self._replace(warning=change if self.warning is None else max(self.warning, change))


def _by_reception(received: Received) -> tuple[datetime, StatusChange]:
    return received.received_at, received.change


# Not frozen, because a frozen one takes four times as long to create, twice per event. Nothing assigns to its
# fields.
@dataclass(slots=True)
class Part:
    """A part's row, and what is known of its earlier events.

    - `latest`: the change that its status comes from.
    - `has_implausible`: whether any of its events has an implausible timestamp.
    - `written_off_since`: the first instant at which it was written off.
    - `is_crowded`: whether it has more events at the instant of `latest` than can be ordered. Not set if it
      was written off or has implausible timestamps, because nothing depends on it then.
    - `reports`: only if it has implausible timestamps and was not written off.
    - `is_current`: False if the row lacks the values above, because an earlier release wrote it.
    - `known`: the reports of all its events, if they are known.
    - `nearby`: its plausible changes around those to come, and the newest one.
    - `recomputed`: what all its events led to, if they were read; the row itself may say otherwise.
    """

    part_id: str
    latest: StatusChange
    external_id: str | None
    external_id_at: datetime | None
    revision: int = 0
    has_implausible: bool = False
    written_off_since: datetime | None = None
    is_crowded: bool = False
    reports: Reports | None = None
    is_current: bool = True
    known: Reports | None = field(default=None, compare=False)
    nearby: Steps = field(default=(), compare=False)
    recomputed: "Part | None" = field(default=None, compare=False)

    @property
    def is_written_off(self) -> bool:
        return self.latest.status == WRITTEN_OFF

    @property
    def newest(self) -> StatusChange | None:
        """The newest plausible change, if it is known."""
        if not self.has_implausible:
            return self.latest
        return None if self.reports is None or self.reports.newest is None else self.reports.newest.change


def with_derived_values(part: Part) -> Part:
    """The part with those values of its row that depend on `known` and `nearby`."""
    if part.is_written_off:
        return replace(part, is_crowded=False, reports=None)
    if part.has_implausible:
        return replace(part, is_crowded=False, reports=part.known)
    crowded = part.is_crowded or is_crowded(part.nearby, part.latest.occurred_at)
    return replace(part, is_crowded=True) if crowded else part
