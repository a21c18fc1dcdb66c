"""What a part's status is, and what was odd about the way it got there."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from consumers.family import Decision, Event, Finding, implausible
from schemas.ovoko import NOT_LISTED, PartEvent, PartObserved

IN_WAREHOUSE = "in_warehouse"
WRITTEN_OFF = "written_off"
SOLD = frozenset({"sold", "sold_in_ebay", "sold_in_allegro"})

# The more a status speaks against selling, the higher: at the same instant the higher one wins,
# because overselling is the loss that merchants fear. An undocumented status ranks with `sold`.
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

# Source: docs/providers.md, "Available statuses". Nothing may follow written_off. What is listed again may be
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


class Change(NamedTuple):
    """One status that a part was given. Sorts in the order of happening.

    `occurred_at` is the first reception where the sender's timestamp is implausible.
    """

    occurred_at: datetime
    rank: int
    event_id: UUID
    status: str

    @classmethod
    def of(cls, event: Event[PartEvent]) -> "Change":
        return cls.of_status(event.payload.event_data.status, event.instant, event.event_id)

    @classmethod
    def of_status(cls, status: str, occurred_at: datetime, event_id: UUID) -> "Change":
        return cls(occurred_at, _RANKS.get(status, _RANKS["sold"]), event_id, status)


class Told(NamedTuple):
    """What one event says about a part. `is_seen`: it was observed in a list, not sent."""

    change: Change
    received_at: datetime
    is_plausible: bool
    is_seen: bool
    external_id: str | None

    @classmethod
    def of(cls, event: Event[PartEvent]) -> "Told":
        payload = event.payload
        is_seen = isinstance(payload, PartObserved)
        return cls(Change.of(event), event.received_at, event.is_plausible, is_seen, payload.merchants_id)


@dataclass(frozen=True, slots=True)
class Part:
    """A part's row. `latest` is the change that its status comes from.

    `has_implausible` says whether any of its events has an implausible timestamp. `history` is what all its
    events told, or None where nothing that is still to come is older than `latest`, and nothing of it is
    implausible: then what came before `latest` makes no difference.
    """

    part_id: str
    latest: Change
    external_id: str | None
    external_id_at: datetime | None
    revision: int = 0
    has_implausible: bool = False
    history: frozenset[Told] | None = field(default=None, compare=False)


def is_documented(status: str) -> bool:
    return status in _RANKS


def needs_history(part: Part, new: Iterable[Event[PartEvent]]) -> bool:
    """Whether what is new slips in between what was known of the part, or something of it is implausible."""
    return part.has_implausible or any(
        not event.is_plausible or Change.of(event) < part.latest for event in new
    )


def with_history(part: Part, logged: Iterable[Event[PartEvent]], new: Collection[Event[PartEvent]]) -> Part:
    """The part with what had happened before, out of the log, which holds what is new too."""
    every = [Told.of(event) for event in logged]
    earlier = frozenset(every).difference(map(Told.of, new))
    latest = part.latest
    if all((told.change.event_id, told.change.status) != (latest.event_id, latest.status) for told in every):
        # What the log does not hold any more is missing here, but never the latest change of all. That of an
        # earlier release may be from an implausible timestamp.
        is_plausible = all(event.may_be(latest.occurred_at) for event in new)
        received_at = latest.occurred_at if is_plausible else _NEVER
        earlier |= {Told(latest, received_at, is_plausible, is_seen=False, external_id=None)}
    return replace(part, history=earlier)


def decide(part: Part | None, event: Event[PartEvent]) -> Decision[Part]:
    """The newest plausible change wins, whatever the order of arrival; written_off is final.

    An implausible timestamp makes nothing sellable against a plausible one; what it says against selling
    stands from its reception until a plausible event that was received later.
    """
    told = Told.of(event)
    if part is not None and part.history is None and told.is_plausible:
        return _decide_newest(part, event, told)
    known = _known(part)
    every = known | {told}
    part_id = event.payload.entity_id
    odd_before = list(sequence_findings(part_id, known))
    odd_after = list(sequence_findings(part_id, every))
    withdrawn = tuple(odd for odd in odd_before if odd not in odd_after)
    return Decision(
        _after(part, event, told, every),
        findings=(
            *(odd for odd in odd_after if odd not in odd_before or _key(odd) in map(_key, withdrawn)),
            *_status_findings(event),
            *implausible(event),
        ),
        withdrawn=withdrawn,
    )


def _decide_newest(part: Part, event: Event[PartEvent], told: Told) -> Decision[Part]:
    """The same, in less time, where nothing before the latest change makes a difference."""
    change = told.change
    before, after = (part.latest, change) if part.latest <= change else (change, part.latest)
    is_seen = told.is_seen and after == change
    findings = () if before == after else tuple(_odd_step(part.part_id, before, after, is_seen, False))
    external_id, external_id_at = _newer_external_id(part, told)
    state = Part(
        part.part_id,
        _latest(part.latest, change),
        external_id,
        external_id_at,
        part.revision,
        part.has_implausible,
    )
    return Decision(state, findings + _status_findings(event))


def _known(part: Part | None) -> frozenset[Told]:
    if part is None:
        return frozenset()
    if part.history is not None:
        return part.history
    # What is implausible comes with the history: nothing but the latest change was asked for.
    latest = part.latest
    return frozenset({Told(latest, latest.occurred_at, is_plausible=True, is_seen=False, external_id=None)})


def _key(finding: Finding) -> tuple[str, UUID | None]:
    """Under an id that was used twice lie two findings: with the one goes the other, which is noted anew."""
    return (finding.kind, finding.event_id)


def _after(part: Part | None, event: Event[PartEvent], told: Told, every: frozenset[Told]) -> Part:
    if part is None:
        external_id_at = None if told.external_id is None else event.instant
        return Part(
            event.payload.entity_id,
            told.change,
            told.external_id,
            external_id_at,
            has_implausible=not told.is_plausible,
            history=every,
        )
    external_id, external_id_at = _external_id(part, event, every)
    return Part(
        part.part_id,
        standing(every),
        external_id,
        external_id_at,
        part.revision,
        part.has_implausible or any(not one.is_plausible for one in every),
        every,
    )


def standing(known: Collection[Told]) -> Change:
    """The change that determines a part's status, of all known ones."""
    final = [told.change for told in known if told.change.status == WRITTEN_OFF]
    if final:
        return max(final)
    plausible = [told for told in known if told.is_plausible]
    warnings = [told for told in known if not told.is_plausible and told.change.status != IN_WAREHOUSE]
    if not warnings:
        return max(told.change for told in plausible or known)
    warned_at, warning = max((told.received_at, told.change) for told in warnings)
    since = [told.change for told in plausible if told.received_at > warned_at]
    if not since:
        return warning
    newest = max(told.change for told in plausible)
    return max(since) if newest.status == IN_WAREHOUSE else newest


def sequence_findings(part_id: str, known: Iterable[Told]) -> Iterator[Finding]:
    """What is odd about a part's changes, in the order of happening.

    What is implausible and sellable changed nothing. What lay between a change that was seen and the one
    before it is not known.
    """
    by_change: dict[Change, bool] = {}
    for told in known:
        if told.is_plausible or told.change.status != IN_WAREHOUSE:
            by_change[told.change] = told.is_seen and by_change.get(told.change, True)
    is_written_off = False
    for before, after in pairwise(sorted(by_change)):
        yield from _odd_step(part_id, before, after, by_change[after], is_written_off)
        is_written_off = is_written_off or before.status == WRITTEN_OFF


def _odd_step(
    part_id: str, before: Change, after: Change, is_seen: bool, is_written_off: bool
) -> Iterator[Finding]:
    if after.status in (WRITTEN_OFF, NOT_LISTED):
        # Whatever it was, it may be written off, or be missing in a list that was asked for it.
        return
    if is_written_off or before.status == WRITTEN_OFF:
        yield Finding(AFTER_WRITTEN_OFF, part_id, after.event_id, f"{after.status} after written_off")
    elif not is_seen and not _is_documented(before.status, after.status):
        words = f"{before.status} became {after.status}"
        yield Finding(UNDOCUMENTED_TRANSITION, part_id, after.event_id, words)


def _is_documented(before: str, after: str) -> bool:
    # An undocumented status is a finding of its own; the steps to and from it say no more.
    if before == after or before not in _RANKS or after not in _RANKS:
        return True
    return after in _MAY_BECOME[before]


def _latest(known: Change, told: Change) -> Change:
    if (known.status == WRITTEN_OFF) is not (told.status == WRITTEN_OFF):
        return known if known.status == WRITTEN_OFF else told
    return max(known, told)


def _newer_external_id(part: Part, told: Told) -> tuple[str | None, datetime | None]:
    """The newest event that names the merchant's own id; at the same instant the greater id."""
    known, known_at = part.external_id, part.external_id_at
    named, named_at = told.external_id, told.change.occurred_at
    if named is None:
        return known, known_at
    if known is None or known_at is None or (known_at, known) < (named_at, named):
        return named, named_at
    return known, known_at


def _external_id(
    part: Part, event: Event[PartEvent], every: Iterable[Told]
) -> tuple[str | None, datetime | None]:
    """The same of all that was told.

    What an earlier release took from an implausible timestamp is not believed.
    """
    named = [(one.change.occurred_at, one.external_id) for one in every if one.external_id is not None]
    if (
        part.external_id is not None
        and part.external_id_at is not None
        and (not named or event.may_be(part.external_id_at))
    ):
        named.append((part.external_id_at, part.external_id))
    named_at, external_id = max(named, default=(None, None))
    return external_id, named_at


def _status_findings(event: Event[PartEvent]) -> tuple[Finding, ...]:
    data = event.payload.event_data
    if data.status in _RANKS:
        return ()
    return (Finding(UNDOCUMENTED_STATUS, data.part_id, event.event_id, f"status {data.status}"),)
