"""Which earlier events of a part have to be read before new ones are decided, and the part with them."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import reduce
from typing import NamedTuple

from consumers.family import Event
from consumers.inventory import sequence
from consumers.inventory.decide import FOREVER, standing
from consumers.inventory.part import Part, Reports, with_derived_values
from consumers.inventory.sequence import Step
from consumers.inventory.status import WRITTEN_OFF, StatusReport
from schemas.ovoko import PartEvent

_NEVER = datetime.min.replace(tzinfo=UTC)


class Reading(NamedTuple):
    """What new events of a part need to know of its earlier ones.

    - `everything`: all events.
    - `around`: the plausible events at these instants and, of those before and after, the nearest instants.
    - `between`: the plausible events that are later than the first of two instants, up to the second one.
    """

    everything: bool = False
    around: frozenset[datetime] = frozenset()
    between: tuple[datetime, datetime] | None = None


EVERYTHING = Reading(everything=True)
NOTHING = Reading()


def reading(part: Part, new: Collection[Event[PartEvent]]) -> Reading:
    """What `decide` needs. The cost per event does not grow with the number of earlier events.

    All of them are read once if the row is of an earlier release, and once when the first event with an
    implausible timestamp comes. An event that writes a part off earlier than known changes the findings of
    all events up to then: each event is read for that at most once. If the id of an event that is read here
    was used for another event, too, all are read: a finding of one of them must outlive that of the other.
    """
    if not part.is_current:
        return EVERYTHING
    # The timestamp of a plausible event is its instant.
    plausible = [event.payload.occurred_at for event in new if event.is_plausible]
    if len(plausible) < len(new) and not part.is_written_off and part.reports is None:
        return EVERYTHING
    since, latest = part.written_off_since, part.latest.occurred_at
    if since is not None:
        # Whatever is later than that is after written_off, whatever its neighbours are.
        instants = {instant for instant in plausible if instant <= since}
    elif part.has_implausible:
        instants = set(plausible)
    else:
        crowded = _crowded(plausible) if len(plausible) > sequence.MOST_AT_ONCE else ()
        instants = {instant for instant in plausible if instant <= latest or instant in crowded}
    written_off = [event.instant for event in new if event.payload.event_data.status == WRITTEN_OFF]
    between: tuple[datetime, datetime] | None = None
    if written_off:
        first = min(written_off)
        if first < (latest if since is None and not part.has_implausible else since or FOREVER):
            # The next change was compared with the one before, also if the timestamp is implausible.
            instants.add(first)
            between = (first, since or FOREVER)
    return Reading(around=frozenset(instants), between=between) if instants else NOTHING


def _crowded(instants: Iterable[datetime]) -> set[datetime]:
    return {instant for instant, count in Counter(instants).items() if count > sequence.MOST_AT_ONCE}


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
    latest = max(written_off) if written_off else standing(known)[0] or max(one.change for one in reports)
    recomputed = with_derived_values(
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
