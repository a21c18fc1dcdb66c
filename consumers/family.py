"""The contract between an event family and the machinery that feeds it."""

from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from schemas.actions import Action
from schemas.changes import Change, CommunicationState, State
from schemas.clock import TOLERANCE
from schemas.event_schema import Payload

# Fields that a finding names.
MOST_NAMED = 10

IMPLAUSIBLE_TIMESTAMP = "implausible_timestamp"

P = TypeVar("P", bound=Payload)
K = TypeVar("K", bound=Hashable)
S = TypeVar("S")


class Connection(Protocol):
    """What a projection needs of a database connection, inside the batch's transaction."""

    async def fetch(self, query: str, *args: object) -> list[Any]: ...

    async def execute(self, query: str, *args: object) -> str: ...


class Past(Protocol):
    """What is known of entities of one family: their events, and the findings about them."""

    async def events(
        self, connection: Connection, entities: Collection[str]
    ) -> Sequence["Event[Any]"] | None:
        """None where the log does not hold all of them any more."""

    async def findings(self, connection: Connection, entities: Collection[str]) -> set["Finding"]: ...


class WriteConflict(Exception):
    """Another transaction wrote the same row first: the batch must be repeated from its claim."""


@dataclass(frozen=True, slots=True)
class Event(Generic[P]):
    """An event that was claimed: it is in the event log for the first time.

    `event_id` is the sender's, and other events may have the same: `content_id` tells them apart. It is None
    where the event was read from the log. `received_at` is the first reception, the earliest of all copies.
    A timestamp that is later than it by more than `tolerance` is implausible.
    """

    event_id: UUID
    received_at: datetime
    payload: P
    content_id: UUID | None = None
    tolerance: timedelta = TOLERANCE

    @property
    def is_plausible(self) -> bool:
        return self.may_be(self.payload.occurred_at)

    @property
    def instant(self) -> datetime:
        """When it happened: as the sender says, or when it was received where that is implausible."""
        return self.bounded(self.payload.occurred_at)

    def may_be(self, told: datetime) -> bool:
        """Whether an instant that the event states is plausible at its reception."""
        return told - self.received_at <= self.tolerance

    def bounded(self, told: datetime) -> datetime:
        """An instant that the event states, or the reception if it is implausible."""
        return told if self.may_be(told) else self.received_at


@dataclass(frozen=True, slots=True)
class Finding:
    """Something odd but true. `event_id` is None when it is about the entity as a whole."""

    kind: str
    entity_id: str
    event_id: UUID | None
    words: str


def implausible(event: Event[Any], *others: datetime | None) -> tuple[Finding, ...]:
    """A finding if the event's timestamp, or another instant that it states, is implausible."""
    if event.is_plausible and not others:
        return ()
    told = [at for at in (event.payload.occurred_at, *others) if at is not None and not event.may_be(at)]
    if not told:
        return ()
    words = f"happened at {max(told).isoformat()}, which is later than it was received"
    return (Finding(IMPLAUSIBLE_TIMESTAMP, event.payload.entity_id, event.event_id, words),)


class CommunicationKind(StrEnum):
    COLLECTION_DATE_REMINDER = "collection_date_reminder"
    MISSED_COLLECTION = "missed_collection"
    ITEM_RECEIVED = "item_received"
    QUALITY_CHECK_FAILED = "quality_check_failed"
    ITEM_APPROVED = "item_approved"
    PAYMENT_DETAILS_RECEIVED = "payment_details_received"
    SCHEDULE_PICKUP_FIRST = "schedule_pickup_first"
    SCHEDULE_PICKUP_SECOND = "schedule_pickup_second"
    DROP_OFF_REMINDER = "drop_off_reminder"


@dataclass(frozen=True, slots=True)
class Communication:
    """A message to a customer that an event calls for."""

    event_id: UUID
    kind: CommunicationKind
    order_id: str
    item_id: str | None
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class Decision(Generic[S]):
    """The state after an event, and what else the event gives rise to.

    `withdrawn` are findings of earlier events that no longer hold now that this event is known.
    """

    state: S
    findings: tuple[Finding, ...] = ()
    withdrawn: tuple[Finding, ...] = ()
    communications: tuple[Communication, ...] = ()


@dataclass(frozen=True, slots=True)
class Family(Generic[P, K, S]):
    """One event family: which events it takes, and how they become rows.

    `happened` sorts events in the order of happening. `decide` is pure, and gives the same final
    state for any order, any repeats and any split into batches. `load` locks the rows it reads, in
    the order of their keys. `save` raises WriteConflict where a row is no longer the one that was
    loaded. `why` names the rule by which an event changed a state or did not, for people to read;
    subscribers receive `change_type`, such as `part.sold`, and the `public_state`. `required_actions` names
    what an event wants done at a marketplace, from the state before it: pure, and with keys that depend on
    neither the order nor the repeats of events. `rests_on_receptions` says whether the first reception of a
    plausible event makes a difference to a state.
    """

    name: str
    payloads: tuple[type[P], ...]
    key: Callable[[P], K]
    load: Callable[[Connection, Sequence[Event[P]]], Awaitable[Mapping[K, S]]]
    decide: Callable[[S | None, Event[P]], Decision[S]]
    save: Callable[[Connection, Collection[S]], Awaitable[None]]
    why: Callable[[S | None, Event[P]], str]
    change_type: Callable[[S | None, S], str]
    public_state: Callable[[S], State]
    required_actions: Callable[[S | None, Event[P]], Sequence[Action]] = lambda _state, _event: ()
    order_key: Callable[[Event[P]], Any] = lambda event: (event.instant, event.event_id)
    rests_on_receptions: Callable[[S], bool] = lambda _state: False


@dataclass(frozen=True, slots=True)
class Effects:
    """What a batch of claimed events came to. `stale` events changed no row.

    `changes` are in order; there are none where nobody is to be told. `actions` may have been asked for
    before.
    """

    stale: int
    findings: frozenset[Finding]
    withdrawn: frozenset[Finding]
    communications: tuple[Communication, ...]
    changes: tuple[Change, ...] = ()
    actions: tuple[Action, ...] = ()


async def project(
    family: Family[P, K, S],
    connection: Connection,
    events: Sequence[Event[P]],
    *,
    tells: bool = False,
    asks: Collection[str] = (),
) -> Effects:
    """Load the rows concerned, decide event by event, save each changed row once.

    With `tells`, each change of a row and each communication is also put into words for subscribers;
    actions of the kinds `asks` are asked for.
    """
    ordered = sorted(events, key=family.order_key)
    states: dict[K, S] = dict(await family.load(connection, ordered))
    changed: set[K] = set()
    findings: set[Finding] = set()
    withdrawn: set[Finding] = set()
    communications: list[Communication] = []
    changes: list[Change] = []
    actions: list[Action] = []
    stale = 0

    for event in ordered:
        key = family.key(event.payload)
        before = states.get(key)
        decision = family.decide(before, event)
        if decision.state == before:
            stale += 1
        else:
            changed.add(key)
            if tells:
                changes.append(_change(family, event, before, decision.state))
        states[key] = decision.state
        withdrawn.difference_update(decision.findings)
        withdrawn.update(decision.withdrawn)
        findings.difference_update(decision.withdrawn)
        findings.update(decision.findings)
        findings.update(_odd_fields(event))
        communications += decision.communications
        if tells:
            changes += map(_falling_due, decision.communications)
        if asks:
            actions += (action for action in family.required_actions(before, event) if action.kind in asks)

    if changed:
        await family.save(connection, [states[key] for key in sorted(changed, key=repr)])
    return Effects(
        stale,
        frozenset(findings),
        frozenset(withdrawn),
        tuple(communications),
        tuple(changes),
        tuple(actions),
    )


def _odd_fields(event: Event[P]) -> Iterator[Finding]:
    """Of the event alone, so that it depends on no other one."""
    payload = event.payload
    odd = payload.odd_fields
    if odd:
        more = f" and {len(odd) - MOST_NAMED} more" if len(odd) > MOST_NAMED else ""
        message = f"could not be read, and counts as absent: {', '.join(odd[:MOST_NAMED])}{more}"
        yield Finding("odd_field", payload.entity_id, event.event_id, message)


async def correct(
    family: Family[P, K, S],
    connection: Connection,
    corrected: Sequence[Event[P]],
    past: Past,
    *,
    tells: bool = False,
) -> Effects:
    """Recompute states after an earlier reception of an applied event became known.

    `corrected` are these events, as received now. The case is rare. Nothing is computed if the reception
    makes no difference, or if the log no longer has all events.
    """
    states = dict(await family.load(connection, corrected))
    by_key = {family.key(event.payload): event for event in corrected}
    entities = {event.payload.entity_id for event in corrected if _is_implausible(family, event)}
    entities |= {
        by_key[key].payload.entity_id for key, state in states.items() if family.rests_on_receptions(state)
    }
    # Read once the rows are locked: nobody else applies an event of these entities meanwhile.
    logged = await past.events(connection, entities) if entities else None
    if logged is None:
        return Effects(0, frozenset(), frozenset(), ())

    recomputed: dict[K, S] = {}
    findings: set[Finding] = set()
    communications: list[Communication] = []
    for event in sorted(logged, key=family.order_key):
        key = family.key(event.payload)
        decision = family.decide(recomputed.get(key), event)
        recomputed[key] = decision.state
        findings.difference_update(decision.withdrawn)
        findings.update(decision.findings, _odd_fields(event))
        communications += decision.communications

    changes: list[Change] = []
    changed: list[S] = []
    for key, cause in sorted(by_key.items(), key=repr):
        if cause.payload.entity_id not in entities:
            continue
        before = states.get(key)
        after = _in_place_of(before, recomputed[key])
        if after != before:
            changed.append(after)
            if tells:
                changes.append(_change(family, cause, before, after))
    if changed:
        await family.save(connection, changed)
    withdrawn = await past.findings(connection, entities) - findings
    return Effects(0, frozenset(findings), frozenset(withdrawn), tuple(communications), tuple(changes))


def _is_implausible(family: Family[P, K, S], event: Event[P]) -> bool:
    """Whether an instant that the event states is implausible: that of the event, or another one."""
    findings = family.decide(None, event).findings
    return not event.is_plausible or any(found.kind == IMPLAUSIBLE_TIMESTAMP for found in findings)


def _in_place_of(before: S | None, after: S) -> S:
    """A state that was computed from nothing, as the one that follows a row."""
    if before is None or not hasattr(before, "revision"):
        return after
    row: Any = after
    state: S = replace(row, revision=before.revision)
    return state


def _change(family: Family[P, K, S], event: Event[P], before: S | None, after: S) -> Change:
    payload = event.payload
    return Change(
        type=family.change_type(before, after),
        subject=payload.entity_id,
        event_id=event.event_id,
        occurred_at=event.instant,
        before=None if before is None else family.public_state(before),
        after=family.public_state(after),
    )


def _falling_due(call: Communication) -> Change:
    state = CommunicationState(call.order_id, call.kind, call.item_id, call.occurred_at)
    return Change(f"communication.{call.kind}", call.order_id, call.event_id, call.occurred_at, None, state)


async def write(connection: Connection, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Run a whole-table write (`unnest` of one array a column) that must touch every row given.

    Raises:
        WriteConflict: Some row had moved on since it was loaded.
    """
    status = await connection.execute(statement, *map(list, zip(*rows, strict=True)))
    if int(status.rsplit(" ", 1)[1]) != len(rows):
        raise WriteConflict
