"""Dead letters by criteria: those that match, their number, and their groups by kind of failure."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any

from consumers.family import Connection
from worker.dead_letters.store import SELECT_LETTER, State, StoredLetter
from worker.postgres.pool import Database

# The arguments of a Selection, in their order.
_OF_THE_SELECTION = """
FROM dead_letters
WHERE ($1::bigint[] IS NULL OR dead_letter_id = ANY($1))
    AND ($2::text IS NULL OR origin = $2)
    AND ($3::text IS NULL OR position(lower($3) IN lower(reason)) > 0)
    AND ($4::text IS NULL OR fingerprint = $4)
    AND ($5::text IS NULL OR type = $5)
    AND ($6::text IS NULL OR entity_id = $6)
    AND ($7::timestamptz IS NULL OR arrived_at >= $7)
    AND ($8::timestamptz IS NULL OR arrived_at < $8)
    AND ($9::text[] IS NULL OR state = ANY($9))
    AND ($10::text IS NULL OR EXISTS (
        SELECT
        FROM jsonb_each_text(evidence) AS named (name, value)
        WHERE value = $10 AND name <> 'gateway_attempt'
    ))
    AND ($11::bigint IS NULL OR dead_letter_id <= $11)
"""

# From the letter that follows one.
_PAGE = """
    AND dead_letter_id > $12
ORDER BY dead_letter_id
LIMIT $13
"""

SELECT_LETTERS = SELECT_LETTER + _OF_THE_SELECTION + _PAGE

# Without headers and body.
SELECT_SUMMARIES = (
    """
SELECT dead_letter_id, origin, state, provider, type, entity_id, reason, fingerprint, attempts, arrived_at,
    replay_of
"""
    + _OF_THE_SELECTION
    + _PAGE
)

SELECT_IDS = "SELECT dead_letter_id" + _OF_THE_SELECTION + _PAGE

COUNT_LETTERS = "SELECT count(*)" + _OF_THE_SELECTION

_GROUPS = """
SELECT fingerprint, origin, min(reason) AS reason, count(*) AS letters,
    array_agg(DISTINCT type ORDER BY type) AS types, min(arrived_at) AS first_at, max(arrived_at) AS last_at
"""

_GROUPED = """
GROUP BY fingerprint, origin
ORDER BY letters DESC, fingerprint, origin
"""

GROUP_LETTERS = _GROUPS + _OF_THE_SELECTION + _GROUPED

# Of a limited number of letters: a table of any size has an answer in time.
COUNT_AT_MOST = (
    "SELECT count(*) FROM (SELECT"
    + _OF_THE_SELECTION
    + """
    AND dead_letter_id > $12
LIMIT $13
) AS limited
"""
)

GROUP_AT_MOST = (
    _GROUPS
    + """FROM (
SELECT fingerprint, origin, reason, type, arrived_at
"""
    + _OF_THE_SELECTION
    + """
    AND dead_letter_id > $12
LIMIT $13
) AS limited"""
    + _GROUPED
    + """LIMIT $14
"""
)

# A cached plan has to fit all criteria, so it reads the whole table.
PLAN_FOR_THESE_CRITERIA = "SET LOCAL plan_cache_mode = force_custom_plan"


@dataclass(frozen=True, slots=True)
class Selection:
    """Criteria for dead letters; None matches all. `reason` matches a part of the reason.

    `gateway_id` is an id or a URL that the gateway or the proxy gave the request; `last_id` the highest id.
    """

    ids: tuple[int, ...] | None = None
    origin: str | None = None
    reason: str | None = None
    fingerprint: str | None = None
    type: str | None = None
    entity: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    states: tuple[State, ...] | None = (State.WAITING,)
    gateway_id: str | None = None
    last_id: int | None = None

    def arguments(self) -> tuple[object, ...]:
        """In the order of the statements' parameters."""
        return astuple(self)


async def select(
    connection: Connection, selection: Selection, *, after: int = 0, limit: int = 1000
) -> list[StoredLetter]:
    """Those meant, the oldest first, from the one that follows `after`."""
    rows = await connection.fetch(SELECT_LETTERS, *selection.arguments(), after, limit)
    return [StoredLetter.of(row) for row in rows]


@asynccontextmanager
async def searching(database: Database) -> AsyncIterator[Connection]:
    """A connection for selections with few or many criteria: each statement is planned for its own."""
    async with database.transaction() as connection:
        await connection.execute(PLAN_FOR_THESE_CRITERIA)
        yield connection


async def summaries(
    connection: Connection, selection: Selection, *, after: int, limit: int
) -> list[Mapping[str, Any]]:
    """Those meant without headers and body, the oldest first, from the one that follows `after`."""
    return await connection.fetch(SELECT_SUMMARIES, *selection.arguments(), after, limit)


async def ids(connection: Connection, selection: Selection, *, after: int, limit: int) -> list[int]:
    """Of those meant, in ascending order, from the one that follows `after`."""
    rows = await connection.fetch(SELECT_IDS, *selection.arguments(), after, limit)
    return [row["dead_letter_id"] for row in rows]


async def count(connection: Connection, selection: Selection) -> int:
    rows = await connection.fetch(COUNT_LETTERS, *selection.arguments())
    return int(rows[0]["count"])


async def count_at_most(connection: Connection, selection: Selection, *, after: int, limit: int) -> int:
    """How many of those that follow `after` are meant; the count ends at the limit."""
    rows = await connection.fetch(COUNT_AT_MOST, *selection.arguments(), after, limit)
    return int(rows[0]["count"])


async def groups_at_most(
    connection: Connection, selection: Selection, *, after: int, letters: int, limit: int
) -> list[dict[str, Any]]:
    """As `groups`, of at most this many letters, and at most this many groups."""
    rows = await connection.fetch(GROUP_AT_MOST, *selection.arguments(), after, letters, limit)
    return [dict(row) for row in rows]


async def groups(connection: Connection, selection: Selection) -> list[dict[str, Any]]:
    """One per kind of failure and origin, those with the most letters first."""
    return [dict(row) for row in await connection.fetch(GROUP_LETTERS, *selection.arguments())]
