"""Decides a part's status, and reports unusual sequences of statuses."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from consumers.family import Decision, Event, Finding, implausible
from schemas.ovoko import NOT_LISTED, PartEvent, PartObserved

IN_WAREHOUSE = "in_warehouse"
WRITTEN_OFF = "written_off"
SOLD = frozenset({"sold", "sold_in_ebay", "sold_in_allegro"})

# A higher rank speaks more against selling. At the same instant the higher rank wins, because overselling is
# the loss that merchants fear. An undocumented status ranks with `sold`.
_RANKS = {
    IN_WAREHOUSE: 0,
    "returned": 1,
    "unknown_stock_status": 2,
    "reserved": 3,
    "sold": 4,
    "sold_in_ebay": 4,
    "sold_in_allegro": 4,
    NOT_LISTED: 4,
    WRITTEN_OFF: 5,
}
_ANY = frozenset(_RANKS)

# Source: docs/providers.md#part-statuses. Nothing may follow written_off. What is listed again may be
# anything by now.
_MAY_BECOME = {
    IN_WAREHOUSE: _ANY,
    "unknown_stock_status": _ANY,
    NOT_LISTED: _ANY,
    "reserved": SOLD | {IN_WAREHOUSE, WRITTEN_OFF},
    "sold": {"returned"},
    "sold_in_ebay": {"returned"},
    "sold_in_allegro": {"returned"},
    "returned": {IN_WAREHOUSE, WRITTEN_OFF},
    WRITTEN_OFF: frozenset[str](),
}

_NEVER = datetime.min.replace(tzinfo=UTC)

AFTER_WRITTEN_OFF = "after_written_off"
UNDOCUMENTED_TRANSITION = "undocumented_transition"
UNDOCUMENTED_STATUS = "undocumented_status"
SEQUENCE_FINDINGS = (AFTER_WRITTEN_OFF, UNDOCUMENTED_TRANSITION)


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


class StatusChange(NamedTuple):
    """One status that a part was given. Sorts in the order in which changes happened.

    `occurred_at` is the first reception if the sender's timestamp is implausible.
    """

    occurred_at: datetime
    rank: int
    event_id: UUID
    status: str

    @classmethod
    def of(cls, event: Event[PartEvent]) -> "StatusChange":
        return cls.of_status(event.payload.event_data.status, event.instant, event.event_id)

    @classmethod
    def of_status(cls, status: str, occurred_at: datetime, event_id: UUID) -> "StatusChange":
        return cls(occurred_at, _RANKS.get(status, _RANKS["sold"]), event_id, status)


class StatusReport(NamedTuple):
    """What one event says about a part. `is_observed`: read from the marketplace's list, not sent."""

    change: StatusChange
    received_at: datetime
    is_plausible: bool
    is_observed: bool
    external_id: str | None

    @classmethod
    def of(cls, event: Event[PartEvent]) -> "StatusReport":
        payload = event.payload
        is_observed = isinstance(payload, PartObserved)
        return cls(
            StatusChange.of(event), event.received_at, event.is_plausible, is_observed, payload.merchants_id
        )


@dataclass(frozen=True, slots=True)
class Part:
    """A part's row. `latest` is the change that its status comes from.

    `has_implausible` says whether any of its events has an implausible timestamp. `history` holds the reports
    of all its events. It is None if no event to come is older than `latest` and none is implausible: then
    what came before `latest` makes no difference.
    """

    part_id: str
    latest: StatusChange
    external_id: str | None
    external_id_at: datetime | None
    revision: int = 0
    has_implausible: bool = False
    history: frozenset[StatusReport] | None = field(default=None, compare=False)


def is_documented(status: str) -> bool:
    return status in _RANKS


def needs_history(part: Part, new: Iterable[Event[PartEvent]]) -> bool:
    """Whether a new event happened before the known status, or an event of the part is implausible."""
    return part.has_implausible or any(
        not event.is_plausible or StatusChange.of(event) < part.latest for event in new
    )


def with_history(part: Part, logged: Iterable[Event[PartEvent]], new: Collection[Event[PartEvent]]) -> Part:
    """The part with its earlier reports. The log holds the new events too."""
    every = [StatusReport.of(event) for event in logged]
    earlier = frozenset(every).difference(map(StatusReport.of, new))
    latest = part.latest
    if all(
        (report.change.event_id, report.change.status) != (latest.event_id, latest.status) for report in every
    ):
        # Months that were dropped from the log are missing here, but the latest change is always known. An
        # earlier release may have taken it from an implausible timestamp.
        is_plausible = all(event.accepts(latest.occurred_at) for event in new)
        received_at = latest.occurred_at if is_plausible else _NEVER
        earlier |= {StatusReport(latest, received_at, is_plausible, is_observed=False, external_id=None)}
    return replace(part, history=earlier)


def decide(part: Part | None, event: Event[PartEvent]) -> Decision[Part]:
    """The newest plausible change wins, whatever the order of arrival; written_off is final.

    An implausible timestamp never makes a part sellable against a plausible one. If it makes a part
    unsellable, that stands until a plausible event is received later.
    """
    report = StatusReport.of(event)
    if part is not None and part.history is None and report.is_plausible:
        return _decide_by_latest(part, event, report)
    known = _known_reports(part)
    every = known | {report}
    part_id = event.payload.entity_id
    findings_before = list(sequence_findings(part_id, known))
    findings_after = list(sequence_findings(part_id, every))
    withdrawn = tuple(finding for finding in findings_before if finding not in findings_after)
    after, rules = _after(part, event, report, known)
    return Decision(
        after,
        rules,
        findings=(
            *(
                finding
                for finding in findings_after
                if finding not in findings_before or _key(finding) in map(_key, withdrawn)
            ),
            *_status_findings(event),
            *implausible(event),
        ),
        withdrawn=withdrawn,
    )


def _decide_by_latest(part: Part, event: Event[PartEvent], report: StatusReport) -> Decision[Part]:
    """The same decision in less time, if nothing before the latest change makes a difference."""
    change = report.change
    before, after = (part.latest, change) if part.latest <= change else (change, part.latest)
    is_observed = report.is_observed and after == change
    findings: tuple[Finding, ...] = ()
    if before != after:
        findings = tuple(_step_findings(part.part_id, before, after, is_observed, False))
    external_id, external_id_at = _newer_external_id(part, report)
    latest, rule = _latest(part.latest, change)
    state = Part(part.part_id, latest, external_id, external_id_at, part.revision, part.has_implausible)
    rules = (rule,) if external_id == part.external_id else (rule, Rule.EXTERNAL_ID)
    return Decision(state, rules, findings + _status_findings(event))


def _known_reports(part: Part | None) -> frozenset[StatusReport]:
    if part is None:
        return frozenset()
    if part.history is not None:
        return part.history
    # The history is loaded if any event is implausible: the latest change is a plausible one.
    latest = part.latest
    return frozenset(
        {StatusReport(latest, latest.occurred_at, is_plausible=True, is_observed=False, external_id=None)}
    )


def _key(finding: Finding) -> tuple[str, UUID | None]:
    """Two findings may share an id that was used twice: if one is withdrawn, the other is noted again."""
    return (finding.kind, finding.event_id)


def _after(
    part: Part | None, event: Event[PartEvent], report: StatusReport, known: frozenset[StatusReport]
) -> tuple[Part, tuple[Rule, ...]]:
    every = known | {report}
    if part is None:
        external_id_at = None if report.external_id is None else event.instant
        first = Part(
            event.payload.entity_id,
            report.change,
            report.external_id,
            external_id_at,
            has_implausible=not report.is_plausible,
            history=every,
        )
        return first, (Rule.FIRST,)
    latest, rule = standing(every)
    external_id, external_id_at = _external_id(part, event, every)
    after = Part(
        part.part_id,
        latest,
        external_id,
        external_id_at,
        part.revision,
        part.has_implausible or any(not one.is_plausible for one in every),
        every,
    )
    match rule:
        case Rule.NEWEST:
            rule = _rule_of_order(known, report)
        case Rule.WRITTEN_OFF_FINAL if report.change == latest:
            _, rule = _latest(part.latest, latest)
    return after, (rule,) if external_id == part.external_id else (rule, Rule.EXTERNAL_ID)


def standing(reports: Collection[StatusReport]) -> tuple[StatusChange, Rule]:
    """The change that determines a part's status, out of all known reports, and the rule."""
    final = [report.change for report in reports if report.change.status == WRITTEN_OFF]
    if final:
        return max(final), Rule.WRITTEN_OFF_FINAL
    plausible = [report for report in reports if report.is_plausible]
    warnings = [
        report for report in reports if not report.is_plausible and report.change.status != IN_WAREHOUSE
    ]
    if not warnings:
        return max(report.change for report in plausible or reports), Rule.NEWEST
    warned_at, warning = max((report.received_at, report.change) for report in warnings)
    since = [report.change for report in plausible if report.received_at > warned_at]
    if not since:
        return warning, Rule.IMPLAUSIBLE_STANDS
    newest = max(report.change for report in plausible)
    return (max(since) if newest.status == IN_WAREHOUSE else newest), Rule.PLAUSIBLE_OVERRULES


def _rule_of_order(known: Collection[StatusReport], report: StatusReport) -> Rule:
    """How a report compares with the known ones, if the newest plausible change wins."""
    if not report.is_plausible and any(one.is_plausible for one in known):
        return Rule.IMPLAUSIBLE_NEVER_SELLS
    comparable = [one.change for one in known if one.is_plausible is report.is_plausible]
    if not comparable:
        return Rule.PLAUSIBLE_OVERRULES if known else Rule.FIRST
    _, rule = _latest(max(comparable), report.change)
    return rule


def sequence_findings(part_id: str, reports: Iterable[StatusReport]) -> Iterator[Finding]:
    """Unusual steps between a part's changes, in the order in which they happened.

    A report that is implausible and sellable changed nothing, so it is left out. What happened between an
    observed change and the one before it is not known.
    """
    is_observed: dict[StatusChange, bool] = {}
    for report in reports:
        if report.is_plausible or report.change.status != IN_WAREHOUSE:
            is_observed[report.change] = report.is_observed and is_observed.get(report.change, True)
    is_written_off = False
    for before, after in pairwise(sorted(is_observed)):
        yield from _step_findings(part_id, before, after, is_observed[after], is_written_off)
        is_written_off = is_written_off or before.status == WRITTEN_OFF


def _step_findings(
    part_id: str, before: StatusChange, after: StatusChange, is_observed: bool, is_written_off: bool
) -> Iterator[Finding]:
    if after.status in (WRITTEN_OFF, NOT_LISTED):
        # A part can be written off, or disappear from the marketplace's list, in any status.
        return
    if is_written_off or before.status == WRITTEN_OFF:
        yield Finding(AFTER_WRITTEN_OFF, part_id, after.event_id, f"{after.status} after written_off")
    elif not is_observed and not _is_documented_step(before.status, after.status):
        message = f"{before.status} became {after.status}"
        yield Finding(UNDOCUMENTED_TRANSITION, part_id, after.event_id, message)


def _is_documented_step(before: str, after: str) -> bool:
    # An undocumented status is a finding of its own; steps to and from it are not reported again.
    if before == after or before not in _RANKS or after not in _RANKS:
        return True
    return after in _MAY_BECOME[before]


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


def _external_id(
    part: Part, event: Event[PartEvent], every: Iterable[StatusReport]
) -> tuple[str | None, datetime | None]:
    """The merchant's own id from all reports.

    The id of the row counts as well, unless an earlier release took it from an implausible timestamp.
    """
    named = [(one.change.occurred_at, one.external_id) for one in every if one.external_id is not None]
    if (
        part.external_id is not None
        and part.external_id_at is not None
        and (not named or event.accepts(part.external_id_at))
    ):
        named.append((part.external_id_at, part.external_id))
    named_at, external_id = max(named, default=(None, None))
    return external_id, named_at


def _status_findings(event: Event[PartEvent]) -> tuple[Finding, ...]:
    data = event.payload.event_data
    if data.status in _RANKS:
        return ()
    return (Finding(UNDOCUMENTED_STATUS, data.part_id, event.event_id, f"status {data.status}"),)
