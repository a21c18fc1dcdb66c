"""What a part's status is, and what was odd about the way it got there."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from consumers.family import Decision, Event, Finding
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

# Source: seeds/001, "Available statuses". Nothing may follow written_off. What is listed again may be
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

AFTER_WRITTEN_OFF = "after_written_off"
UNDOCUMENTED_TRANSITION = "undocumented_transition"
UNDOCUMENTED_STATUS = "undocumented_status"
SEQUENCE_FINDINGS = (AFTER_WRITTEN_OFF, UNDOCUMENTED_TRANSITION)


class Change(NamedTuple):
    """One status that a part was given. Sorts in the order of happening."""

    occurred_at: datetime
    rank: int
    event_id: UUID
    status: str

    @classmethod
    def of(cls, event: Event[PartEvent]) -> "Change":
        payload = event.payload
        return cls.of_status(payload.event_data.status, payload.occurred_at, event.event_id)

    @classmethod
    def of_status(cls, status: str, occurred_at: datetime, event_id: UUID) -> "Change":
        return cls(occurred_at, _RANKS.get(status, _RANKS["sold"]), event_id, status)


@dataclass(frozen=True, slots=True)
class Part:
    """A part's row. `latest` is the change that its status comes from.

    `history` is every change there was, or None where nothing that is still to come is older than
    `latest`: then what came before `latest` makes no difference. `seen` are those of them that nobody
    told, but that were seen in a list: what lay between one and the change before it is not known.
    """

    part_id: str
    latest: Change
    external_id: str | None
    external_id_at: datetime | None
    revision: int = 0
    history: tuple[Change, ...] | None = field(default=None, compare=False)
    seen: frozenset[Change] = field(default=frozenset(), compare=False)


def is_documented(status: str) -> bool:
    return status in _RANKS


def needs_history(part: Part, changes: Iterable[Change]) -> bool:
    """Whether what is new about a part slips in between what was known of it."""
    return min(changes) < part.latest


def with_history(part: Part, logged: Iterable[Event[PartEvent]], new: Collection[Change]) -> Part:
    """The part with what had happened before, out of the log, which holds what is new too."""
    seen: set[Change] = set()
    told: set[Change] = set()
    for event in logged:
        (seen if isinstance(event.payload, PartObserved) else told).add(Change.of(event))
    # What the log does not hold any more is missing here, but never the latest change of all.
    earlier = (seen | told).difference(new) | {part.latest}
    return replace(part, history=tuple(sorted(earlier)), seen=frozenset(seen - told))


def decide(part: Part | None, event: Event[PartEvent]) -> Decision[Part]:
    """The newest change wins, whatever the order of arrival; written_off is final."""
    change = Change.of(event)
    known = () if part is None else (part.latest,) if part.history is None else part.history
    seen_before = frozenset[Change]() if part is None else part.seen
    is_seen = isinstance(event.payload, PartObserved) and change not in known
    seen = seen_before | {change} if is_seen else seen_before
    history = known if change in known else tuple(sorted((*known, change)))
    odd_before = list(sequence_findings(event.payload.entity_id, known, seen_before))
    odd_after = list(sequence_findings(event.payload.entity_id, history, seen))
    withdrawn = tuple(odd for odd in odd_before if odd not in odd_after)
    return Decision(
        _after(part, event.payload, change, history, seen),
        findings=(
            *(odd for odd in odd_after if odd not in odd_before or _key(odd) in map(_key, withdrawn)),
            *_status_findings(event),
        ),
        withdrawn=withdrawn,
    )


def _key(finding: Finding) -> tuple[str, UUID | None]:
    """Under an id that was used twice lie two findings: with the one goes the other, which is noted anew."""
    return (finding.kind, finding.event_id)


def _after(
    part: Part | None,
    payload: PartEvent,
    change: Change,
    history: tuple[Change, ...],
    seen: frozenset[Change],
) -> Part:
    if part is None:
        external_id, external_id_at = _external_id(None, None, payload)
        return Part(payload.entity_id, change, external_id, external_id_at, history=history, seen=seen)
    external_id, external_id_at = _external_id(part.external_id, part.external_id_at, payload)
    return Part(
        part.part_id,
        _latest(part.latest, change),
        external_id,
        external_id_at,
        part.revision,
        None if part.history is None else history,
        part.seen if part.history is None else seen,
    )


def sequence_findings(
    part_id: str, history: Iterable[Change], seen: Collection[Change] = ()
) -> Iterator[Finding]:
    """What is odd about a part's changes, given in the order of happening."""
    is_written_off = False
    for before, after in pairwise(history):
        is_written_off = is_written_off or before.status == WRITTEN_OFF
        if after.status in (WRITTEN_OFF, NOT_LISTED):
            # Whatever it was, it may be written off, or be missing in a list that was asked for it.
            continue
        if is_written_off:
            yield Finding(AFTER_WRITTEN_OFF, part_id, after.event_id, f"{after.status} after written_off")
        elif after not in seen and not _is_documented(before.status, after.status):
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


def _external_id(
    known: str | None, known_at: datetime | None, payload: PartEvent
) -> tuple[str | None, datetime | None]:
    """The newest event that names the merchant's own id; at the same instant the greater id."""
    told = payload.merchants_id
    if told is None:
        return known, known_at
    if known is None or known_at is None or (known_at, known) < (payload.occurred_at, told):
        return told, payload.occurred_at
    return known, known_at


def _status_findings(event: Event[PartEvent]) -> tuple[Finding, ...]:
    data = event.payload.event_data
    if data.status in _RANKS:
        return ()
    return (Finding(UNDOCUMENTED_STATUS, data.part_id, event.event_id, f"status {data.status}"),)
