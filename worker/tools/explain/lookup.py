"""Find entities, events and dead letters by an id, in bounded time.

The log has no index for ids of events and of gateways, which every event would pay for. It is searched in
windows of WINDOW sequence numbers, through the index of the sequence numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from consumers.family import Connection, Table
from consumers.registry import FAMILIES, AnyFamily
from schemas.envelope import EVIDENCE
from worker.tools.private_values import redacted

# How many sequence numbers of the log one search covers.
WINDOW = 50_000

# How many dead letters one search covers: the newest ones.
NEWEST_LETTERS = 10_000

MOST_HITS = 50
MOST_ROWS = 200

# The clock of an ingest may be ahead of the database's.
CLOCK_DIFFERENCE = timedelta(minutes=5)

# The ids in the evidence; the number of an attempt is none.
_NAMED = ", ".join(f"evidence->>'{name}'" for name in EVIDENCE if name != "gateway_attempt")

# By event_log_by_entity. An entity with many events is read in part: its rows say the rest.
FAMILIES_IN_LOG = """
SELECT DISTINCT family
FROM (
    SELECT family
    FROM event_log
    WHERE entity_id = $1
    LIMIT 1000
) AS logged
"""

# By event_log_by_entity; ends after $3 rows.
COUNT_EVENTS = """
SELECT count(*) AS events
FROM (
    SELECT
    FROM event_log
    WHERE entity_id = $1 AND family = $2
    LIMIT $3
) AS logged
"""

# By event_log_by_entity: reads all events of the entity, and none of another.
NEWEST_EVENTS = """
SELECT *
FROM (
    SELECT seq, coalesce(reuse_of, event_id) AS event_id, type, occurred_at, received_at, applied_at, attempt,
        evidence, coalesce(content_id, reuse_of) IS NOT NULL AS is_reused,
        CASE WHEN occurred_at > received_at + $3::interval THEN received_at ELSE occurred_at END AS instant
    FROM event_log
    WHERE entity_id = $1 AND family = $2
) AS logged
WHERE ($4::timestamptz IS NULL OR instant <= $4)
    AND ($5::timestamptz IS NULL OR (instant, seq) < ($5, $6::bigint))
ORDER BY instant DESC, seq DESC
LIMIT $7
"""

# By the unique index of findings.
FINDINGS_OF = """
SELECT kind, event_id, message
FROM findings
WHERE family = $2 AND entity_id = $1
ORDER BY kind, message
LIMIT 200
"""

# By bisection, through event_log_by_seq: at most 1000 more than the newest sequence number.
NEWEST_SEQ = """
WITH RECURSIVE bisected (low, high) AS (
    SELECT 0::bigint, 1::bigint << 40
    UNION ALL
    SELECT CASE WHEN is_reached THEN middle ELSE low END, CASE WHEN is_reached THEN high ELSE middle END
    FROM (SELECT low, high, (low + high) / 2 AS middle FROM bisected WHERE high - low > 1000) AS halves
    CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM event_log WHERE seq >= middle) AS is_reached) AS probe
)
SELECT min(high) AS seq
FROM bisected
"""

# By bisection, as above: the sequence number of the first event that was applied since $1, or of one close to
# it. The log is nearly in the order of applied_at, and so are the rows that a scan returns.
SEQ_AT = """
WITH RECURSIVE bisected (low, high) AS (
    SELECT 0::bigint, $2::bigint
    UNION ALL
    SELECT CASE WHEN is_before THEN middle ELSE low END, CASE WHEN is_before THEN high ELSE middle END
    FROM (SELECT low, high, (low + high) / 2 AS middle FROM bisected WHERE high - low > 1000) AS halves
    CROSS JOIN LATERAL (
        SELECT coalesce(
            (SELECT applied_at < $1 FROM event_log WHERE seq >= middle LIMIT 1), false
        ) AS is_before
    ) AS probe
)
SELECT seq
FROM event_log
WHERE seq >= (SELECT max(low) FROM bisected)
LIMIT 1
"""

# By the primary keys.
RECEPTIONS_OF_EVENT = """
SELECT received_at
FROM event_ids
WHERE event_id = $1
UNION ALL
SELECT received_at
FROM reused_event_ids
WHERE event_id = $1
"""

# By event_log_by_seq, as is the next.
ENTITIES_BY_EVENT = """
SELECT DISTINCT family, entity_id
FROM event_log
WHERE seq BETWEEN $2 AND $3 AND (event_id = $1 OR reuse_of = $1)
ORDER BY family, entity_id
LIMIT 50
"""

EVENTS_BY_GATEWAY_ID = f"""
SELECT family, entity_id, coalesce(reuse_of, event_id) AS event_id, type, applied_at
FROM event_log
WHERE seq BETWEEN $2 AND $3 AND evidence IS NOT NULL AND $1 IN ({_NAMED})
ORDER BY seq DESC
LIMIT 50
"""

# By the primary key.
LETTER = """
SELECT dead_letter_id, origin, state, event_id, replayed_as, type, entity_id, reason
FROM dead_letters
WHERE dead_letter_id = $1
"""

# By the primary key, the newest $2 of all dead letters.
LETTERS_OF_ENTITY = """
SELECT dead_letter_id, origin, state, event_id, replayed_as, type, entity_id, reason
FROM (
    SELECT dead_letter_id, origin, state, event_id, replayed_as, type, entity_id, reason
    FROM dead_letters
    ORDER BY dead_letter_id DESC
    LIMIT $2
) AS newest
WHERE entity_id = $1 AND origin <> ALL($3::text[])
ORDER BY dead_letter_id DESC
LIMIT 50
"""

# As above.
LETTERS_ABOUT = f"""
SELECT dead_letter_id, origin, state, event_id, replayed_as, type, entity_id, reason
FROM (
    SELECT dead_letter_id, origin, state, event_id, replayed_as, type, entity_id, reason, evidence
    FROM dead_letters
    ORDER BY dead_letter_id DESC
    LIMIT $2
) AS newest
WHERE entity_id = $1 OR $3::uuid IN (event_id, replayed_as) OR $1 IN ({_NAMED})
ORDER BY dead_letter_id DESC
LIMIT 50
"""


def _rows_statement(table: Table) -> str:
    """By the primary key, which begins with the entity's id."""
    return f"SELECT * FROM {table.name} WHERE {table.entity} = $1 LIMIT {MOST_ROWS}"


ROWS_OF_ENTITY = {table.name: _rows_statement(table) for one in FAMILIES.values() for table in one.tables}


@dataclass(frozen=True, slots=True)
class Letter:
    """What a dead letter is about."""

    dead_letter_id: int
    origin: str
    state: str
    event_id: UUID
    replayed_as: UUID | None
    type: str
    entity_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An applied event, as the log has it. `instant` is the reception if the timestamp is implausible."""

    seq: int
    event_id: UUID
    id_used_twice: bool
    type: str
    occurred_at: datetime
    received_at: datetime
    applied_at: datetime
    seconds_to_receive: float
    seconds_to_apply: float
    attempts: int
    evidence: dict[str, str]
    instant: datetime


@dataclass(frozen=True, slots=True)
class Row:
    """A row of an entity, with private values redacted."""

    table: str
    values: dict[str, object]


@dataclass(frozen=True, slots=True)
class GatewayHit:
    """An applied event whose request the gateway or the proxy names so."""

    family: str
    entity_id: str
    event_id: UUID
    type: str
    applied_at: datetime


async def families_with(connection: Connection, entity_id: str) -> list[AnyFamily]:
    """The families that have an entity with this id, by their events or their rows."""
    logged = {row["family"] for row in await connection.fetch(FAMILIES_IN_LOG, entity_id)}
    return [
        family
        for family in FAMILIES.values()
        if family.name in logged or await connection.fetch(ROWS_OF_ENTITY[family.tables[0].name], entity_id)
    ]


async def count_events(connection: Connection, family: AnyFamily, entity_id: str, most: int) -> int:
    """At most `most`: so much is read."""
    [row] = await connection.fetch(COUNT_EVENTS, entity_id, family.name, most)
    return int(row["events"])


async def newest_events(
    connection: Connection,
    family: AnyFamily,
    entity_id: str,
    tolerance: timedelta,
    limit: int,
    at: datetime | None = None,
    before: tuple[datetime, int] | None = None,
) -> list[LoggedEvent]:
    """The newest ones that had happened at a time, and before the place where another page ended."""
    before_instant, before_seq = before or (None, None)
    rows = await connection.fetch(
        NEWEST_EVENTS, entity_id, family.name, tolerance, at, before_instant, before_seq, limit
    )
    return [_logged_event(row) for row in rows]


def _logged_event(row: Mapping[str, Any]) -> LoggedEvent:
    return LoggedEvent(
        seq=row["seq"],
        event_id=row["event_id"],
        id_used_twice=row["is_reused"],
        type=row["type"],
        occurred_at=row["occurred_at"],
        received_at=row["received_at"],
        applied_at=row["applied_at"],
        seconds_to_receive=(row["received_at"] - row["occurred_at"]).total_seconds(),
        seconds_to_apply=(row["applied_at"] - row["received_at"]).total_seconds(),
        attempts=row["attempt"],
        evidence=orjson.loads(row["evidence"] or "{}"),
        instant=row["instant"],
    )


async def findings_of(connection: Connection, family: AnyFamily, entity_id: str) -> list[dict[str, Any]]:
    return [dict(row) for row in await connection.fetch(FINDINGS_OF, entity_id, family.name)]


async def rows_of(connection: Connection, family: AnyFamily, entity_id: str) -> list[Row]:
    """The rows that the family's tables have of an entity."""
    return [
        Row(
            table.name,
            {
                column: redacted(family, column, value)
                for column, value in row.items()
                if column not in family.internal and value is not None
            },
        )
        for table in family.tables
        for row in await connection.fetch(ROWS_OF_ENTITY[table.name], entity_id)
    ]


async def newest_seq(connection: Connection) -> int:
    """At least the newest sequence number of the log, and at most 1000 more."""
    [row] = await connection.fetch(NEWEST_SEQ)
    return int(row["seq"])


async def receptions_of_event(connection: Connection, event_id: UUID) -> list[datetime | None]:
    """Of the applied events with this id. None if an earlier release applied it."""
    return [row["received_at"] for row in await connection.fetch(RECEPTIONS_OF_EVENT, event_id)]


async def entities_by_event(
    connection: Connection, event_id: UUID, received_at: datetime | None
) -> list[tuple[AnyFamily, str]]:
    """What an applied event is about.

    Searched are the WINDOW events that were applied after its reception; without one, the newest ones.
    """
    newest = await newest_seq(connection)
    if received_at is None:
        first = newest - WINDOW
    else:
        rows = await connection.fetch(SEQ_AT, received_at - CLOCK_DIFFERENCE, newest)
        first = rows[0]["seq"] - 1000 if rows else 0
    rows = await connection.fetch(ENTITIES_BY_EVENT, event_id, first, first + WINDOW)
    return [(FAMILIES[row["family"]], row["entity_id"]) for row in rows]


async def events_by_gateway_id(connection: Connection, gateway_id: str, last: int) -> list[GatewayHit]:
    """The newest first, of the WINDOW sequence numbers up to `last`."""
    rows = await connection.fetch(EVENTS_BY_GATEWAY_ID, gateway_id, last - WINDOW + 1, last)
    return [GatewayHit(**row) for row in rows]


async def letter_by_id(connection: Connection, dead_letter_id: int) -> Letter | None:
    rows = await connection.fetch(LETTER, dead_letter_id)
    return Letter(**rows[0]) if rows else None


async def letters_of(connection: Connection, family: AnyFamily, entity_id: str) -> list[Letter]:
    """Of one family's entity; the newest first, of the newest NEWEST_LETTERS."""
    others = [name for name in FAMILIES if name != family.name]
    rows = await connection.fetch(LETTERS_OF_ENTITY, entity_id, NEWEST_LETTERS, others)
    return [Letter(**row) for row in rows]


async def letters_about(connection: Connection, its_id: str, event_id: UUID | None) -> list[Letter]:
    """Of an entity, an event or a request of a gateway; the newest first, of the newest NEWEST_LETTERS."""
    rows = await connection.fetch(LETTERS_ABOUT, its_id, NEWEST_LETTERS, event_id)
    return [Letter(**row) for row in rows]
