"""Decides a part's status, and reports unusual sequences of statuses."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import reduce
from typing import NamedTuple
from uuid import UUID

from consumers.family import Decision, Event, Finding, implausible
from consumers.inventory import sequence
from consumers.inventory.sequence import (
    Context,
    Step,
    Steps,
    affected,
    inserted,
    is_crowded,
    sequence_findings,
)
from consumers.inventory.status import (
    IN_WAREHOUSE,
    WRITTEN_OFF,
    StatusChange,
    StatusReport,
    is_documented,
)
from schemas.ovoko import PartEvent

_NEVER = datetime.min.replace(tzinfo=UTC)
_FOREVER = datetime.max.replace(tzinfo=UTC)

UNDOCUMENTED_STATUS = "undocumented_status"


class Rule(StrEnum):
    FIRST = "first status of the part"
    NEWEST = "the newest status wins"
    OLDER = "the newest status wins, and a newer one is known"
    REPEATED = "repeats the known status"
    LESS_SELLABLE = "at the same instant the status that speaks more against selling wins"
    GREATER_ID = "at the same instant and with the same rank, the greater event id wins"
    WRITTEN_OFF_FINAL = "written_off is final"
    WRITTEN_OFF_OVERRULES = "written_off is final, and replaces a newer status"
    IMPLAUSIBLE_NEVER_SELLS = "an implausible timestamp never makes a part sellable against a plausible one"
    IMPLAUSIBLE_STANDS = "an implausible timestamp: its status stands until a plausible one is received later"
    PLAUSIBLE_OVERRULES = "a plausible status overrules the implausible one"
    EXTERNAL_ID = "the newest event that names the merchant's own id sets it"


class Received(NamedTuple):
    change: StatusChange
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Reports:
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
        return replace(self, warning=change if self.warning is None else max(self.warning, change))


def _by_reception(received: Received) -> tuple[datetime, StatusChange]:
    return received.received_at, received.change


@dataclass(frozen=True, slots=True)
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


class Reading(NamedTuple):
    """What new events of a part need to know of its earlier ones.

    - `everything`: all events.
    - `around`: the plausible events at these instants and, of those before and after, the nearest instants.
    - `between`: the plausible events that are later than the first of two instants, up to the second one.
    """

    everything: bool = False
    around: frozenset[datetime] = frozenset()
    between: tuple[datetime, datetime] | None = None


def reading(part: Part, new: Collection[Event[PartEvent]]) -> Reading:
    """What `decide` needs. The cost per event does not grow with the number of earlier events.

    All of them are read once if the row is of an earlier release, and once when the first event with an
    implausible timestamp comes. An event that writes a part off earlier than known changes the findings of
    all events up to then: each event is read for that at most once. If the id of an event that is read here
    was used for another event, too, all are read: a finding of one of them must outlive that of the other.
    """
    if not part.is_current:
        return Reading(everything=True)
    if not part.is_written_off and part.reports is None and not all(event.is_plausible for event in new):
        return Reading(everything=True)
    since, latest = part.written_off_since, part.latest.occurred_at
    instants = {event.instant for event in new if event.is_plausible}
    if since is not None:
        # Whatever is later than that is after written_off, whatever its neighbours are.
        instants = {instant for instant in instants if instant <= since}
    elif not part.has_implausible:
        crowded = _crowded(new) if len(new) > sequence.MOST_AT_ONCE else ()
        instants = {instant for instant in instants if instant <= latest or instant in crowded}
    written_off = [event.instant for event in new if event.payload.event_data.status == WRITTEN_OFF]
    first = min(written_off, default=_FOREVER)
    begins_earlier = first < (latest if since is None and not part.has_implausible else since or _FOREVER)
    if begins_earlier:
        # The next change was compared with the one before, also if the timestamp is implausible.
        instants.add(first)
    return Reading(around=frozenset(instants), between=(first, since or _FOREVER) if begins_earlier else None)


def _crowded(new: Iterable[Event[PartEvent]]) -> set[datetime]:
    counted = Counter(event.instant for event in new if event.is_plausible)
    return {instant for instant, count in counted.items() if count > sequence.MOST_AT_ONCE}


def with_nearby(part: Part, logged: Iterable[Event[PartEvent]], new: Iterable[Event[PartEvent]] = ()) -> Part:
    """The part with its earlier events that were read. The log holds the new events too."""
    newest = part.newest
    nearby = _steps(logged)
    if nearby:
        counted = Counter(nearby)
        counted.subtract(_steps(new))
        nearby = sorted(counted.elements())
    if newest is not None and all(step.change != newest for step in nearby):
        # The month that has its event may have been dropped from the log.
        nearby = sorted([*nearby, Step(newest, is_observed=False)])
    return replace(part, known=part.reports, nearby=tuple(nearby))


def _steps(events: Iterable[Event[PartEvent]]) -> list[Step]:
    return [Step.of(StatusReport.of(event)) for event in events if event.is_plausible]


def with_history(part: Part, logged: Iterable[Event[PartEvent]], new: Collection[Event[PartEvent]]) -> Part:
    """The part with all its earlier events. The log holds the new events too."""

    def is_trusted(instant: datetime) -> bool:
        # An earlier release may have taken it from an implausible timestamp.
        return part.is_current or all(event.accepts(instant) for event in new)

    counted = Counter(map(StatusReport.of, logged))
    counted.subtract(map(StatusReport.of, new))
    reports = list(counted.elements())
    latest = part.latest
    if all(
        (report.change.event_id, report.change.status) != (latest.event_id, latest.status)
        for report in reports
    ):
        # Months that were dropped from the log are missing here, but the latest change is always known.
        is_plausible = is_trusted(latest.occurred_at)
        received_at = latest.occurred_at if is_plausible else _NEVER
        reports.append(StatusReport(latest, received_at, is_plausible, is_observed=False, external_id=None))
    named = [(one.change.occurred_at, one.external_id) for one in reports if one.external_id is not None]
    at = part.external_id_at
    if at is not None and part.external_id is not None and (not named or is_trusted(at)):
        named.append((at, part.external_id))
    named_at, external_id = max(named, default=(None, None))
    known = reduce(Reports.adding, reports, Reports())
    written_off = [report.change for report in reports if report.change.status == WRITTEN_OFF]
    latest = max(written_off) if written_off else _standing(known)[0] or max(one.change for one in reports)
    recomputed = _summarized(
        Part(
            part.part_id,
            latest,
            external_id,
            named_at,
            part.revision,
            has_implausible=part.has_implausible or not all(report.is_plausible for report in reports),
            written_off_since=min(written_off).occurred_at if written_off else None,
            known=known,
            nearby=tuple(sorted(Step.of(report) for report in reports if report.is_plausible)),
        )
    )
    return replace(part, recomputed=recomputed)


def decide(part: Part | None, event: Event[PartEvent]) -> Decision[Part]:
    """The newest plausible change wins, whatever the order of arrival; written_off is final.

    An implausible timestamp never makes a part sellable against a plausible one. If it makes a part
    unsellable, that stands until a plausible event is received later. When such an event happened is not
    known, so it has no place in the sequence of changes, but what happened after it was received, if it wrote
    the part off, happened after that.
    """
    report = StatusReport.of(event)
    if part is None:
        after = _first(event.payload.entity_id, report)
        rules: tuple[Rule, ...] = (Rule.FIRST,)
        before_findings: list[Finding] = []
        after_findings: list[Finding] = []
    else:
        known = part.recomputed or part
        after, rules = _after(known, report)
        before_findings, after_findings = _sequences(known, after, report)
    withdrawn: tuple[Finding, ...] = ()
    if before_findings:
        withdrawn = tuple(finding for finding in before_findings if finding not in after_findings)
        again = {_key(finding) for finding in withdrawn}
        after_findings = [
            finding for finding in after_findings if finding not in before_findings or _key(finding) in again
        ]
    findings = (*after_findings, *_status_findings(event), *implausible(event))
    return Decision(after, rules, findings, withdrawn)


def _key(finding: Finding) -> tuple[str, UUID | None]:
    """Two findings may share an id that was used twice: if one is withdrawn, the other is noted again."""
    return (finding.kind, finding.event_id)


def _first(part_id: str, report: StatusReport) -> Part:
    change, external_id = report.change, report.external_id
    return _summarized(
        Part(
            part_id,
            change,
            external_id,
            None if external_id is None else change.occurred_at,
            has_implausible=not report.is_plausible,
            written_off_since=change.occurred_at if change.status == WRITTEN_OFF else None,
            known=Reports().adding(report),
            nearby=(Step.of(report),) if report.is_plausible else (),
        )
    )


def _after(part: Part, report: StatusReport) -> tuple[Part, tuple[Rule, ...]]:
    change = report.change
    before = part.known
    if before is None and not report.is_plausible:
        # All earlier events were plausible.
        received = Received(part.latest, part.latest.occurred_at)
        before = Reports(newest=received, last=received)
    known = None if before is None else before.adding(report)
    has_implausible = part.has_implausible or not report.is_plausible
    if WRITTEN_OFF in (part.latest.status, change.status):
        latest, rule = _latest(part.latest, change)
        rule = rule if latest == change else Rule.WRITTEN_OFF_FINAL
    elif not has_implausible or before is None or known is None:
        latest, rule = _latest(part.latest, change)
    else:
        latest, rule = _weighed(part, report, before, known)
    external_id, external_id_at = _newer_external_id(part, report)
    since = part.written_off_since
    if change.status == WRITTEN_OFF:
        since = change.occurred_at if since is None else min(since, change.occurred_at)
    after = Part(
        part.part_id,
        latest,
        external_id,
        external_id_at,
        part.revision,
        has_implausible,
        since,
        part.is_crowded and part.latest.occurred_at == latest.occurred_at,
        known=known,
        nearby=inserted(part.nearby, Step.of(report)) if report.is_plausible else part.nearby,
    )
    return _summarized(after), (rule,) if external_id == part.external_id else (rule, Rule.EXTERNAL_ID)


def _summarized(part: Part) -> Part:
    """The part with those values of its row that depend on `known` and `nearby`."""
    if part.is_written_off:
        return replace(part, is_crowded=False, reports=None)
    if part.has_implausible:
        return replace(part, is_crowded=False, reports=part.known)
    crowded = part.is_crowded or is_crowded(part.nearby, part.latest.occurred_at)
    return replace(part, is_crowded=True) if crowded else part


def _weighed(part: Part, report: StatusReport, before: Reports, known: Reports) -> tuple[StatusChange, Rule]:
    """The status of a part with implausible timestamps."""
    latest, rule = _standing(known)
    if latest is None:
        return _latest(part.latest, report.change)
    if known.warning is not None:
        return latest, rule
    if not report.is_plausible:
        return latest, Rule.IMPLAUSIBLE_NEVER_SELLS
    if before.newest is None:
        return latest, Rule.PLAUSIBLE_OVERRULES
    return _latest(before.newest.change, report.change)


def _standing(known: Reports) -> tuple[StatusChange | None, Rule]:
    """The change that determines the status. None if all are implausible, and none speaks against selling."""
    newest, last, warning = known.newest, known.last, known.warning
    if warning is None:
        return None if newest is None else newest.change, Rule.NEWEST
    if newest is None or last is None or last.received_at <= warning.occurred_at:
        return warning, Rule.IMPLAUSIBLE_STANDS
    if newest.change.status != IN_WAREHOUSE or newest.received_at > warning.occurred_at:
        return newest.change, Rule.PLAUSIBLE_OVERRULES
    # The newest one was received before the warning: only what was received since overrules it.
    return last.change, Rule.PLAUSIBLE_OVERRULES


def _sequences(part: Part, after: Part, report: StatusReport) -> tuple[list[Finding], list[Finding]]:
    """The findings about the steps that the report affects, before and after it."""
    before_since, after_since = part.written_off_since, after.written_off_since
    if not report.is_plausible and before_since == after_since:
        return [], []
    until = None if before_since == after_since else before_since or _FOREVER
    crowded_at = part.latest.occurred_at if part.is_crowded else None
    before_context = Context(part.part_id, before_since, crowded_at)
    after_context = Context(part.part_id, after_since, crowded_at)

    begin, end, later_than = affected(part.nearby, report.change.occurred_at, until)
    more = len(after.nearby) - len(part.nearby)
    before_findings = list(sequence_findings(before_context, part.nearby[begin:end], later_than))
    after_findings = list(sequence_findings(after_context, after.nearby[begin : end + more], later_than))
    if before_findings:
        withdrawn = {finding.event_id for finding in before_findings if finding not in after_findings}
        if sum(step.change.event_id in withdrawn for step in part.nearby) > len(withdrawn):
            # Another event with the same id may have the same finding: all are known then, see `reading`.
            before_findings = list(sequence_findings(before_context, part.nearby))
            after_findings = list(sequence_findings(after_context, after.nearby))
    return before_findings, after_findings


def _latest(known: StatusChange, new: StatusChange) -> tuple[StatusChange, Rule]:
    if (known.status == WRITTEN_OFF) is not (new.status == WRITTEN_OFF):
        if known.status == WRITTEN_OFF:
            return known, Rule.WRITTEN_OFF_FINAL
        return new, Rule.WRITTEN_OFF_OVERRULES if new < known else Rule.WRITTEN_OFF_FINAL
    if new.occurred_at > known.occurred_at:
        return new, Rule.NEWEST
    if new.occurred_at < known.occurred_at:
        return known, Rule.OLDER
    if new == known:
        return known, Rule.REPEATED
    return max(known, new), Rule.GREATER_ID if new.rank == known.rank else Rule.LESS_SELLABLE


def _newer_external_id(part: Part, report: StatusReport) -> tuple[str | None, datetime | None]:
    """The merchant's own id from the newest event that names one; at the same instant the greater id."""
    known, known_at = part.external_id, part.external_id_at
    named, named_at = report.external_id, report.change.occurred_at
    if named is None:
        return known, known_at
    if known is None or known_at is None or (known_at, known) < (named_at, named):
        return named, named_at
    return known, known_at


def _status_findings(event: Event[PartEvent]) -> tuple[Finding, ...]:
    data = event.payload.event_data
    if is_documented(data.status):
        return ()
    return (Finding(UNDOCUMENTED_STATUS, data.part_id, event.event_id, f"status {data.status}"),)
