"""The contract between an event family and the machinery that feeds it."""

from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from schemas.actions import Action
from schemas.changes import Change, CommunicationState, State
from schemas.events import Payload

# Fields that a finding names.
MOST_NAMED = 10

P = TypeVar("P", bound=Payload)
K = TypeVar("K", bound=Hashable)
S = TypeVar("S")


class Connection(Protocol):
    """What a projection needs of a database connection, inside the batch's transaction."""

    async def fetch(self, query: str, *args: object) -> list[Any]: ...

    async def execute(self, query: str, *args: object) -> str: ...


class WriteConflict(Exception):
    """Another transaction wrote the same row first: the batch must be repeated from its claim."""


@dataclass(frozen=True, slots=True)
class Event(Generic[P]):
    """An event that was claimed: it is in the event log for the first time.

    `event_id` is the sender's, and other events may have the same: `content_id` tells them apart. It is None
    where the event was read from the log.
    """

    event_id: UUID
    received_at: datetime
    payload: P
    content_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something odd but true. `event_id` is None when it is about the entity as a whole."""

    kind: str
    entity_id: str
    event_id: UUID | None
    words: str


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
    subscribers are told `change_type`, such as `part.sold`, and what of a state is `visible` to them.
    `calls_for` names what an event wants done at a marketplace, from the state before it: pure, and with
    keys that depend on neither the order nor the repeats of events.
    """

    name: str
    payloads: tuple[type[P], ...]
    key: Callable[[P], K]
    load: Callable[[Connection, Sequence[Event[P]]], Awaitable[Mapping[K, S]]]
    decide: Callable[[S | None, Event[P]], Decision[S]]
    save: Callable[[Connection, Collection[S]], Awaitable[None]]
    why: Callable[[S | None, Event[P]], str]
    change_type: Callable[[S | None, S], str]
    visible: Callable[[S], State]
    calls_for: Callable[[S | None, Event[P]], Sequence[Action]] = lambda _state, _event: ()
    happened: Callable[[Event[P]], Any] = lambda event: (event.payload.occurred_at, event.event_id)


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
    ordered = sorted(events, key=family.happened)
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
            actions += (action for action in family.calls_for(before, event) if action.kind in asks)

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


def _change(family: Family[P, K, S], event: Event[P], before: S | None, after: S) -> Change:
    payload = event.payload
    return Change(
        type=family.change_type(before, after),
        subject=payload.entity_id,
        event_id=event.event_id,
        occurred_at=payload.occurred_at,
        before=None if before is None else family.visible(before),
        after=family.visible(after),
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
