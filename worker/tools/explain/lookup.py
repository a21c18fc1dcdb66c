"""Find entities, events and dead letters by an id, in bounded time.

The log has no index for ids of events and of gateways, which every event would pay for. It is searched in
windows of sequence numbers, through the index of these, in the partitions that can have them: in each other
partition, the newest pages have no entry in the index and would be read as well.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from consumers.family import Connection, Table
from consumers.registry import FAMILIES, AnyFamily
from schemas.envelope import EVIDENCE
from worker.postgres.pool import Database
from worker.tools.private_values import redacted

# How many sequence numbers of the log one search for an id of a gateway covers.
WINDOW = 25_000

# How many sequence numbers after its reception an event is searched in.
APPLIED_WITHIN = 50_000

# By how much sequence numbers may differ from the order of applied_at, as transactions overlap.
OVERLAP = 5_000

# How many dead letters one search covers: the newest ones.
NEWEST_LETTERS = 10_000

MOST_ROWS = 200

EARLIEST = datetime(1, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)

# After every timestamp that a sender may state: the driver sends it as infinity.
LAST = datetime.max.replace(tzinfo=UTC)

# The clock of an ingest may be ahead of the database's.
CLOCK_DIFFERENCE = timedelta(minutes=5)

# The ids in the evidence; the number of an attempt is none.
_NAMED = ", ".join(f"evidence->>'{name}'" for name in EVIDENCE if name != "gateway_attempt")

# By event_log_by_time. An entity with many events is read in part: its rows say the rest.
FAMILIES_IN_LOG = """
SELECT DISTINCT family
FROM (
    SELECT family
    FROM event_log
    WHERE entity_id = $1
    LIMIT 1000
) AS logged
"""

# By event_log_by_time; ends after $3 rows.
COUNT_EVENTS = """
SELECT count(*) AS events
FROM (
    SELECT
    FROM event_log
    WHERE entity_id = $1 AND family = $2
    LIMIT $3
) AS logged
"""

# By event_log_by_time, backwards from $4: reads the events of the entity that the page has, and the others of
# the last instant. If another family has an entity with this id, its events are read as well.
LATEST_EVENTS = """
SELECT seq, coalesce(reuse_of, event_id) AS event_id, type, occurred_at, received_at, applied_at, attempt,
    evidence, coalesce(content_id, reuse_of) IS NOT NULL AS is_reused,
    CASE WHEN occurred_at > received_at + $3::interval THEN received_at ELSE occurred_at END AS instant
FROM event_log
WHERE entity_id = $1 AND family = $2
    AND occurred_at <= $4::timestamptz
    AND (occurred_at, seq) < ($5::timestamptz, $6::bigint)
ORDER BY occurred_at DESC, seq DESC
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

# Of each partition with events, by its first page: the month, and the lowest sequence number but for OVERLAP.
PARTITIONS = """
SELECT date_trunc('month', min(applied_at), 'UTC') AS month, min(seq) AS first_seq
FROM event_log
WHERE ctid < '(1,0)'::tid
GROUP BY tableoid
ORDER BY first_seq
"""

# By bisection, through event_log_by_seq in the partitions since $2, of which $1 is a sequence number: at most
# 1000 more than the newest one. OFFSET 0: each probe is needed twice, and made once.
NEWEST_SEQ = """
WITH RECURSIVE bisected (low, high) AS (
    SELECT $1::bigint, 1::bigint << 40
    UNION ALL
    SELECT CASE WHEN is_reached THEN middle ELSE low END, CASE WHEN is_reached THEN high ELSE middle END
    FROM (SELECT low, high, (low + high) / 2 AS middle FROM bisected WHERE high - low > 1000) AS halves
    CROSS JOIN LATERAL (
        SELECT EXISTS (SELECT FROM event_log WHERE seq >= middle AND applied_at >= $2) AS is_reached
        OFFSET 0
    ) AS probe
)
SELECT min(high) AS seq
FROM bisected
"""

# By bisection, as above, in the partitions from $4 to $5 and between the sequence numbers $2 and $3: that of
# the first event that was applied since $1, or of one close to it. The log is nearly in the order of
# applied_at, and so are the rows that a scan returns.
SEQ_AT = """
WITH RECURSIVE bisected (low, high) AS (
    SELECT $2::bigint, $3::bigint
    UNION ALL
    SELECT CASE WHEN is_before THEN middle ELSE low END, CASE WHEN is_before THEN high ELSE middle END
    FROM (SELECT low, high, (low + high) / 2 AS middle FROM bisected WHERE high - low > 1000) AS halves
    CROSS JOIN LATERAL (
        SELECT coalesce(
            (
                SELECT applied_at < $1
                FROM event_log
                WHERE seq >= middle AND applied_at >= $4 AND applied_at < $5
                LIMIT 1
            ),
            false
        ) AS is_before
        OFFSET 0
    ) AS probe
)
SELECT seq
FROM event_log
WHERE seq >= (SELECT max(low) FROM bisected) AND applied_at >= $4 AND applied_at < $5
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
WHERE seq BETWEEN $2 AND $3
    AND applied_at >= $4
    AND applied_at < $5
    AND (event_id = $1 OR reuse_of = $1)
ORDER BY family, entity_id
LIMIT 50
"""

EVENTS_BY_GATEWAY_ID = f"""
SELECT family, entity_id, coalesce(reuse_of, event_id) AS event_id, type, applied_at
FROM event_log
WHERE seq BETWEEN $2 AND $3
    AND applied_at >= $4
    AND applied_at < $5
    AND evidence IS NOT NULL
    AND $1 IN ({_NAMED})
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


# The planner takes a whole partition for a short way to one row, and workers for the rest of a machine.
PLAN_BY_INDEX = "SET LOCAL enable_seqscan = off; SET LOCAL max_parallel_workers_per_gather = 0"

# In the order of the index. Before a month has statistics, the planner would sort all events of the entity.
PLAN_BY_TIME = "SET LOCAL enable_sort = off; SET LOCAL max_parallel_workers_per_gather = 0"


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


@dataclass(frozen=True, slots=True)
class Partition:
    """Of the log: the events that were applied since this time, from about this sequence number on."""

    start: datetime
    first_seq: int


@asynccontextmanager
async def searching(database: Database) -> AsyncIterator[Connection]:
    """A connection for searches in the log."""
    async with database.transaction() as connection:
        await connection.execute(PLAN_BY_INDEX)
        yield connection


@asynccontextmanager
async def reading_by_time(database: Database) -> AsyncIterator[Connection]:
    """A connection for `latest_events`."""
    async with database.transaction() as connection:
        await connection.execute(PLAN_BY_TIME)
        yield connection


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


async def latest_events(
    connection: Connection,
    family: AnyFamily,
    entity_id: str,
    tolerance: timedelta,
    limit: int,
    at: datetime | None = None,
    before: tuple[datetime, int] | None = None,
) -> list[LoggedEvent]:
    """Those that happened last by the sender's clock, until a time; from the place (`occurred_at`, `seq`) on
    where another page ended.

    The connection is one of `reading_by_time`.
    """
    instant, seq = before or (LAST, 0)
    rows = await connection.fetch(
        LATEST_EVENTS, entity_id, family.name, tolerance, min(at or LAST, instant), instant, seq, limit
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


async def partitions(connection: Connection) -> list[Partition]:
    """Those with events, the oldest first."""
    return [Partition(row["month"], row["first_seq"]) for row in await connection.fetch(PARTITIONS)]


def span(listed: Sequence[Partition], first: int, last: int) -> tuple[datetime, datetime]:
    """The times between which the events with these sequence numbers were applied."""
    before = [one.start for one in listed if one.first_seq <= first - OVERLAP]
    after = [one.start for one in listed if one.first_seq > last + OVERLAP]
    return max(before, default=EARLIEST), min(after, default=LATEST)


async def newest_seq(connection: Connection, listed: Sequence[Partition]) -> int:
    """At least the newest sequence number of the log, and at most 1000 more."""
    if not listed:
        return 0
    newest = max(listed, key=lambda one: one.start)
    [row] = await connection.fetch(NEWEST_SEQ, newest.first_seq, newest.start)
    return int(row["seq"])


async def receptions_of_event(connection: Connection, event_id: UUID) -> list[datetime | None]:
    """Of the applied events with this id. None if an earlier release applied it."""
    return [row["received_at"] for row in await connection.fetch(RECEPTIONS_OF_EVENT, event_id)]


async def entities_by_event(
    connection: Connection, listed: Sequence[Partition], event_id: UUID, received_at: datetime | None
) -> list[tuple[AnyFamily, str]]:
    """What an applied event is about.

    Searched are the APPLIED_WITHIN events that were applied after its reception; without one, the newest
    ones.
    """
    newest = await newest_seq(connection, listed)
    first = (
        newest - APPLIED_WITHIN
        if received_at is None
        else await _seq_at(connection, listed, newest, received_at - CLOCK_DIFFERENCE) - 1000
    )
    last = first + APPLIED_WITHIN
    rows = await connection.fetch(ENTITIES_BY_EVENT, event_id, first, last, *span(listed, first, last))
    return [(FAMILIES[row["family"]], row["entity_id"]) for row in rows]


async def _seq_at(connection: Connection, listed: Sequence[Partition], newest: int, at: datetime) -> int:
    """The sequence number of the first event that was applied since then, or of one close to it."""
    low = max((one for one in listed if one.start <= at), key=lambda one: one.start, default=None)
    high = min((one for one in listed if one.start > at), key=lambda one: one.start, default=None)
    if low is None:
        return 0 if high is None else high.first_seq
    rows = await connection.fetch(
        SEQ_AT,
        at,
        low.first_seq,
        newest if high is None else high.first_seq + OVERLAP,
        low.start,
        LATEST if high is None else high.start,
    )
    return int(rows[0]["seq"]) if rows else low.first_seq


async def events_by_gateway_id(
    connection: Connection, listed: Sequence[Partition], gateway_id: str, last: int
) -> list[GatewayHit]:
    """The newest first, of the WINDOW sequence numbers up to `last`."""
    first = last - WINDOW + 1
    rows = await connection.fetch(EVENTS_BY_GATEWAY_ID, gateway_id, first, last, *span(listed, first, last))
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
