"""The table `unhandled_events`."""

from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from consumers.family import Connection
from consumers.registry import FAMILY_OF
from schemas.envelope import Envelope, InvalidEnvelope
from schemas.events import routing_key
from schemas.registry import Provider
from schemas.trace_context import ORIGIN_TRACEPARENT, origin_headers
from worker.amqp.tap import Delivery
from worker.intake.intake import shown_type

# Far more than a marketplace has; further types get neither a finding nor a log line.
MOST_TYPES_RECORDED = 1_000

# A message that is delivered twice, or an event that is sent twice, finds its row there.
INSERT_EVENT = """
INSERT INTO unhandled_events (provider, type, event_id, content_id, received_at, body, traceparent)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (provider, event_id, content_id) DO NOTHING
"""

# The finding belongs to no family. It stays when the type's events are deleted, so that each type is found
# once.
FIND_TYPE = """
INSERT INTO findings (kind, family, entity_id, message)
SELECT 'unhandled_event_type', 'any', $1, $2
WHERE $3 > (SELECT count(*) FROM findings WHERE kind = 'unhandled_event_type' AND family = 'any')
ON CONFLICT (family, entity_id, kind, event_id) DO NOTHING
RETURNING entity_id
"""

COUNT = "SELECT count(*) FROM unhandled_events"

# Shared by the statements below: marketplaces and types; null means any.
_OF_THE_SELECTION = """
FROM unhandled_events
WHERE ($1::text[] IS NULL OR provider = ANY($1))
    AND ($2::text[] IS NULL OR type = ANY($2))
"""

COUNT_BY_TYPE = (
    """
SELECT provider, type, count(*) AS events, min(received_at) AS first_at, max(received_at) AS last_at
"""
    + _OF_THE_SELECTION
    + """
GROUP BY provider, type
ORDER BY events DESC, provider, type
"""
)

SELECT_EVENTS = (
    """
SELECT unhandled_event_id, provider, type, event_id, received_at, body, traceparent
"""
    + _OF_THE_SELECTION
    + """
    AND unhandled_event_id > $3
    AND unhandled_event_id <= coalesce($4, unhandled_event_id)
ORDER BY unhandled_event_id
LIMIT $5
"""
)

COUNT_EVENTS = "SELECT count(*) AS events, max(unhandled_event_id) AS last_id" + _OF_THE_SELECTION

GET_EVENT = """
SELECT unhandled_event_id, provider, type, event_id, received_at, body, traceparent
FROM unhandled_events
WHERE unhandled_event_id = $1
"""

# Safe to repeat after a crash: a row that is already deleted stays deleted.
DELETE_EVENTS = "DELETE FROM unhandled_events WHERE unhandled_event_id = ANY($1::bigint[])"

_FINDING = "no family handles this event type: its events are kept as unhandled"


@dataclass(frozen=True, slots=True)
class Arriving:
    """An unhandled event as it comes from the quarantine. `type` can be shown and stored.

    `traceparent` is the context of its first publish.
    """

    provider: str
    type: str
    event_id: UUID
    content_id: UUID
    received_at: datetime
    body: bytes
    traceparent: str | None = None

    @property
    def name(self) -> str:
        return f"{self.provider}.{self.type}"


@dataclass(frozen=True, slots=True)
class Unhandled:
    """A row of `unhandled_events`."""

    unhandled_event_id: int
    provider: str
    type: str
    event_id: UUID
    received_at: datetime
    body: bytes
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class TypeCount:
    """How many events of a type there are, and when the first and the last of them was received."""

    provider: str
    type: str
    events: int
    first_at: datetime
    last_at: datetime

    @property
    def family(self) -> str | None:
        return family_of(self.provider, self.type)

    def as_json(self) -> dict[str, Any]:
        return {
            "marketplace": self.provider,
            "type": self.type,
            "events": self.events,
            "first_at": self.first_at,
            "last_at": self.last_at,
            "taken_by": self.family,
        }


@dataclass(frozen=True, slots=True)
class UnhandledSelection:
    """Which events are meant; None means any."""

    providers: tuple[str, ...] | None = None
    types: tuple[str, ...] | None = None

    def arguments(self) -> tuple[object, ...]:
        """In the order of the statements' parameters."""
        return self.providers, self.types


ALL = UnhandledSelection()


def family_of(provider: str, event_type: str) -> str | None:
    """The family that handles the type in this release; None if none does."""
    return FAMILY_OF.get(routing_key(Provider(provider), event_type))


def read_arriving(delivery: Delivery) -> Arriving | None:
    """A message that the ingest marked as unhandled; None where its headers lack something.

    The headers contain all that is needed; the body is not read.
    """
    try:
        envelope = Envelope.from_headers(delivery.headers)
    except InvalidEnvelope:
        return None
    event_type = shown_type(envelope.event_type)
    if not event_type:
        return None
    return Arriving(
        envelope.provider,
        event_type,
        envelope.event_id,
        envelope.content_id,
        envelope.received_at,
        delivery.body,
        origin_headers(delivery.headers).get(ORIGIN_TRACEPARENT),
    )


async def insert(connection: Connection, events: Sequence[Arriving], recorded: Collection[str]) -> list[str]:
    """Insert the events that are not there yet; returns the names of types that were never seen before.

    Types in `recorded` are known to have been seen.
    """
    for event in events:
        await connection.execute(INSERT_EVENT, *astuple(event))
    new: list[str] = []
    for name in sorted({event.name for event in events}.difference(recorded)):
        rows = await connection.fetch(FIND_TYPE, name, _FINDING, MOST_TYPES_RECORDED)
        new += [row["entity_id"] for row in rows]
    return new


async def count_by_type(connection: Connection, selection: UnhandledSelection = ALL) -> list[TypeCount]:
    """The most frequent type first."""
    rows = await connection.fetch(COUNT_BY_TYPE, *selection.arguments())
    return [TypeCount(**row) for row in rows]


async def select(
    connection: Connection,
    selection: UnhandledSelection,
    *,
    after: int = 0,
    until: int | None = None,
    limit: int = 100,
) -> list[Unhandled]:
    """Those meant, the oldest first, from the one that follows `after` to the one with the id `until`."""
    rows = await connection.fetch(SELECT_EVENTS, *selection.arguments(), after, until, limit)
    return [Unhandled(**row) for row in rows]


async def extent(connection: Connection, selection: UnhandledSelection) -> tuple[int, int]:
    """How many are meant, and the id of the last one."""
    [row] = await connection.fetch(COUNT_EVENTS, *selection.arguments())
    return row["events"], row["last_id"] or 0


async def get(connection: Connection, unhandled_event_id: int) -> Unhandled | None:
    rows = await connection.fetch(GET_EVENT, unhandled_event_id)
    return Unhandled(**rows[0]) if rows else None


async def delete(connection: Connection, ids: Collection[int]) -> None:
    await connection.execute(DELETE_EVENTS, list(ids))


def handled_types(providers: Collection[str]) -> frozenset[str]:
    """The event types that a family handles from one of these marketplaces."""
    keys = (key.partition(".") for key in FAMILY_OF)
    return frozenset(event_type for provider, _, event_type in keys if provider in providers)
