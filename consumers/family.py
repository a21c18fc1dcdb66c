"""What an event family states about itself."""

from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Generic, NamedTuple, Protocol, TypeVar
from uuid import UUID

from consumers.details import Details
from schemas.actions import Action
from schemas.changes import State
from schemas.clock import TOLERANCE
from schemas.event_schema import Payload
from schemas.events import routing_key_of

IMPLAUSIBLE_TIMESTAMP = "implausible_timestamp"

P = TypeVar("P", bound=Payload)
K = TypeVar("K", bound=Hashable)
S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)


class Connection(Protocol):
    """The methods of a database connection that a family uses, inside the batch's transaction."""

    async def fetch(self, query: str, *args: object) -> list[Any]: ...

    async def execute(self, query: str, *args: object) -> str: ...


class WriteConflict(Exception):
    """Another transaction wrote the same row first: repeat the batch from its claim."""


@dataclass(frozen=True, slots=True)
class Event(Generic[P]):
    """An event that was claimed: it is in the event log for the first time.

    `event_id` comes from the sender, and several events may have the same one: `content_id` distinguishes
    them. It is None if the event was read from the log. `received_at` is the first reception, the earliest of
    all copies. A timestamp that is later than `received_at` by more than `tolerance` is implausible.
    """

    event_id: UUID
    received_at: datetime
    payload: P
    content_id: UUID | None = None
    tolerance: timedelta = TOLERANCE

    @property
    def is_plausible(self) -> bool:
        return self.accepts(self.payload.occurred_at)

    @property
    def instant(self) -> datetime:
        """When the event happened: its timestamp, or the reception if the timestamp is implausible."""
        return self.bounded(self.payload.occurred_at)

    def accepts(self, instant: datetime) -> bool:
        """Whether an instant that the event states is plausible at its reception."""
        return instant - self.received_at <= self.tolerance

    def bounded(self, instant: datetime) -> datetime:
        """An instant that the event states, or the reception if that instant is implausible."""
        return instant if self.accepts(instant) else self.received_at


@dataclass(frozen=True, slots=True)
class Finding:
    """Something unusual about valid events. `event_id` is None if it concerns the entity as a whole."""

    kind: str
    entity_id: str
    event_id: UUID | None
    message: str


def implausible(event: Event[Any], *others: datetime | None) -> tuple[Finding, ...]:
    """A finding if the event's timestamp, or another instant that it states, is implausible."""
    if event.is_plausible and not others:
        return ()
    stated = (event.payload.occurred_at, *others)
    refused = [instant for instant in stated if instant is not None and not event.accepts(instant)]
    if not refused:
        return ()
    message = f"the timestamp {max(refused).isoformat()} is later than the reception"
    return (Finding(IMPLAUSIBLE_TIMESTAMP, event.payload.entity_id, event.event_id, message),)


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
    """A message to a customer that an event requires."""

    event_id: UUID
    kind: CommunicationKind
    order_id: str
    item_id: str | None
    occurred_at: datetime


class Decision(NamedTuple, Generic[S]):
    """The state after an event, the rules that led to it, and what else follows from the event.

    Each family lists its rules in an enum, whose values are the sentences that people read. Several rules
    apply if an event writes several columns. `withdrawn` are findings of earlier events that no longer hold
    now that this event is known.
    """

    state: S
    rules: tuple[StrEnum, ...]
    findings: tuple[Finding, ...] = ()
    withdrawn: tuple[Finding, ...] = ()
    communications: tuple[Communication, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose rows belong to one family.

    `key` identifies a row. The column `entity` holds the `entity_id` of the event log. A marketplace's API
    fills `detail_columns` and `detail_tables` (which have the column `entity` too): no event writes them, and
    a rebuild does not change them. The values of `encrypted` columns are Fernet tokens.
    """

    name: str
    key: tuple[str, ...]
    entity: str
    detail_columns: tuple[str, ...] = ()
    detail_tables: tuple[str, ...] = ()
    encrypted: tuple[str, ...] = ()


FINDINGS = Table("findings", key=("entity_id", "kind", "event_id"), entity="entity_id")
COMMUNICATIONS = Table("communications", key=("event_id", "kind"), entity="order_id")
"""Tables that families share."""


class Load(Protocol[P, K, S_co]):
    """Read the rows of the entities of these events, by key.

    With `lock`, the rows are locked until the transaction ends, in the order of their keys.
    """

    async def __call__(
        self, connection: Connection, events: Sequence[Event[P]], *, lock: bool
    ) -> Mapping[K, S_co]: ...


@dataclass(frozen=True, slots=True)
class Family(Generic[P, K, S]):
    """One event family: which events it handles, and how they become rows.

    - `entity`: what the events are about, in the singular, for people and for the command line.
    - `payloads`: the models of its event types.
    - `tables`: its own tables. Each batch locks rows of the first one before it writes to any other.
    - `communications`: the kinds that its events can require. Each kind belongs to one family.
    - `private`: columns and state values with personal data or with URLs that grant access. Tools show that
      they changed, and not their values.
    - `internal`: values of a state that say how it was written or computed, which `explain` leaves out.
    - `key`: which row an event is about.
    - `load`, `save`: read and write rows. `save` raises WriteConflict if a row has changed since `load`.
    - `decide`: pure. Leads to the same final state for any order, any repeats and any split into batches.
    - `order_key`: sorts events in the order in which they happened.
    - `change_type`, `public_state`: what subscribers receive, such as `part.sold` and the state.
    - `required_actions`: requests to a marketplace that an event requires, given the state before it. Pure;
      their keys depend neither on the order nor on repeats of events.
    - `rests_on_receptions`: whether the first reception of a plausible event can change this state.
    - `load_details`: what the marketplace's API answered about an entity.
    """

    name: str
    entity: str
    payloads: tuple[type[P], ...]
    tables: tuple[Table, ...]
    key: Callable[[P], K]
    load: Load[P, K, S]
    decide: Callable[[S | None, Event[P]], Decision[S]]
    save: Callable[[Connection, Collection[S]], Awaitable[None]]
    change_type: Callable[[S | None, S], str]
    public_state: Callable[[S], State]
    required_actions: Callable[[S | None, Event[P]], Sequence[Action]] = lambda _state, _event: ()
    order_key: Callable[[Event[P]], Any] = lambda event: (event.instant, event.event_id)
    rests_on_receptions: Callable[[S], bool] = lambda _state: False
    load_details: Callable[[Connection, str], Awaitable[Details | None]] | None = None
    communications: tuple[CommunicationKind, ...] = ()
    private: frozenset[str] = frozenset()
    internal: frozenset[str] = frozenset({"revision"})

    @property
    def event_types(self) -> tuple[str, ...]:
        """The routing keys of its events: `<provider>.<event type>`."""
        return tuple(map(routing_key_of, self.payloads))


def arrays(rows: Sequence[tuple[object, ...]], columns: int) -> list[list[object]]:
    """The rows as `unnest` takes them, one array per column, also if there are none."""
    return list(map(list, zip(*rows, strict=True))) or [[] for _ in range(columns)]


async def write(
    connection: Connection, statement: str, rows: Sequence[tuple[object, ...]], *more: object
) -> None:
    """Run a statement that writes rows from `unnest` of one array per column. It must write every row.

    `more` are the arguments after these arrays.

    Raises:
        WriteConflict: A row has changed since it was loaded.
    """
    status = await connection.execute(statement, *arrays(rows, len(rows[0])), *more)
    if int(status.rsplit(" ", 1)[1]) != len(rows):
        raise WriteConflict
