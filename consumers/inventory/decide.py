"""Decides a part's status, and reports unusual sequences of statuses."""

from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

from consumers.family import Decision, Event, Finding, implausible
from consumers.inventory.part import Part, Received, Reports, with_derived_values
from consumers.inventory.sequence import (
    Context,
    Step,
    affected,
    inserted,
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

FOREVER = datetime.max.replace(tzinfo=UTC)

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
    findings = (*after_findings, *_status_findings(event, report))
    if not report.is_plausible:
        findings += implausible(event)
    return Decision(after, rules, findings, withdrawn)


def _key(finding: Finding) -> tuple[str, UUID | None]:
    """Two findings may share an id that was used twice: if one is withdrawn, the other is noted again."""
    return (finding.kind, finding.event_id)


def _first(part_id: str, report: StatusReport) -> Part:
    change, external_id = report.change, report.external_id
    return with_derived_values(
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
    rules = (rule,) if external_id == part.external_id else (rule, Rule.EXTERNAL_ID)
    return with_derived_values(after), rules


def _weighed(part: Part, report: StatusReport, before: Reports, known: Reports) -> tuple[StatusChange, Rule]:
    """The status of a part with implausible timestamps."""
    latest, rule = standing(known)
    if latest is None:
        return _latest(part.latest, report.change)
    if known.warning is not None:
        return latest, rule
    if not report.is_plausible:
        return latest, Rule.IMPLAUSIBLE_NEVER_SELLS
    if before.newest is None:
        return latest, Rule.PLAUSIBLE_OVERRULES
    return _latest(before.newest.change, report.change)


def standing(known: Reports) -> tuple[StatusChange | None, Rule]:
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
    until = None if before_since == after_since else before_since or FOREVER
    crowded_at = part.latest.occurred_at if part.is_crowded else None
    before_context = Context(part.part_id, before_since, crowded_at)
    after_context = before_context._replace(written_off_since=after_since) if until else before_context

    compared, begin, end = affected(part.nearby, report.change.occurred_at, until)
    after_end = end + len(after.nearby) - len(part.nearby)
    after_findings = sequence_findings(after_context, after.nearby[compared:after_end], begin - compared)
    if begin == end:
        # No known step is affected.
        return [], after_findings
    before_findings = sequence_findings(before_context, part.nearby[compared:end], begin - compared)
    if before_findings:
        withdrawn = {finding.event_id for finding in before_findings if finding not in after_findings}
        if sum(step.change.event_id in withdrawn for step in part.nearby) > len(withdrawn):
            # Another event with the same id may have the same finding: all are known then, see `reading`.
            before_findings = sequence_findings(before_context, part.nearby)
            after_findings = sequence_findings(after_context, after.nearby)
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


def _status_findings(event: Event[PartEvent], report: StatusReport) -> tuple[Finding, ...]:
    status = report.change.status
    if is_documented(status):
        return ()
    return (Finding(UNDOCUMENTED_STATUS, event.payload.entity_id, event.event_id, f"status {status}"),)
