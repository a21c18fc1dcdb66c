"""The tables `dead_letters` and `dead_letter_audit`."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any, Self
from uuid import UUID

import orjson

from consumers.family import Connection
from schemas.envelope import Envelope, InvalidEnvelope, Provenance
from worker.dead_letters.message import Letter, provenance_in
from worker.observability.errors import StockhookError
from worker.postgres.pool import Database

# What is delivered twice conflicts with its own key. What comes back from a replay points to what was
# replayed: that was marked before it was published.
INSERT_LETTER = """
INSERT INTO dead_letters
    (message_key, origin, event_id, provider, type, entity_id, reason, exception, fingerprint, attempts,
     received_at, first_failed_at, last_failed_at, headers, body, provenance, replay_of, evidence)
SELECT $1::uuid, $2::text, $3::uuid, $4::text, $5::text, $6::text, $7::text, $8::text, $9::text,
    $10::bigint, $11::timestamptz, $12::timestamptz, $13::timestamptz, $14::text::json, $15::bytea,
    $17::text,
    (SELECT max(dead_letter_id)
     FROM dead_letters
     WHERE replayed_as = $3
        AND (replayed_content_id IS NULL OR replayed_content_id = $16::uuid)
        AND state IN ('replaying', 'replayed')),
    $18::text::jsonb
ON CONFLICT (message_key) DO NOTHING
"""

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

# The columns of a StoredLetter.
_SELECT_LETTER = """
SELECT dead_letter_id, origin, state, event_id, provider, type, entity_id, reason, exception, fingerprint,
    attempts, received_at, first_failed_at, last_failed_at, arrived_at, headers, body, original_body,
    provenance, evidence, replayed_as, replay_of
"""

SELECT_LETTERS = _SELECT_LETTER + _OF_THE_SELECTION + _PAGE

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

# A Selection of one id would read the whole primary key once its plan is cached.
GET_LETTER = (
    _SELECT_LETTER
    + """FROM dead_letters
WHERE dead_letter_id = $1
"""
)

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

LAST_ID = "SELECT coalesce(max(dead_letter_id), 0) FROM dead_letters"

WAITING_BY_ORIGIN = """
SELECT origin, count(*) AS letters
FROM dead_letters
WHERE state IN ('waiting', 'replaying')
GROUP BY origin
"""

# Safe to repeat after a crash. A letter that was changed or discarded since it was read is not marked.
MARK_REPLAYING = """
UPDATE dead_letters
SET state = 'replaying', replayed_as = replay.replayed_as, replayed_content_id = replay.replayed_content_id
FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::bytea[])
    AS replay (dead_letter_id, replayed_as, replayed_content_id, body)
WHERE dead_letters.dead_letter_id = replay.dead_letter_id
    AND dead_letters.body = replay.body
    AND state IN ('waiting', 'replaying')
RETURNING dead_letters.dead_letter_id
"""

MARK_REPLAYED = """
UPDATE dead_letters
SET state = 'replayed'
WHERE dead_letter_id = ANY($1::bigint[]) AND state = 'replaying'
RETURNING dead_letter_id
"""

# The replayed letters that came back since they were replayed, and those that were applied. Letters of one
# event share the outcome: a letter that comes back refers to one of them.
FOLLOW_REPLAY = """
SELECT dead_letter_id, is_back
FROM (
    SELECT replayed.dead_letter_id,
        EXISTS (
            SELECT
            FROM dead_letters AS twin
            JOIN dead_letters AS came_back ON came_back.replay_of = twin.dead_letter_id
            WHERE twin.replayed_as = replayed.replayed_as
                AND twin.replayed_content_id IS NOT DISTINCT FROM replayed.replayed_content_id
                AND came_back.arrived_at >= followed.since
        ) AS is_back,
        EXISTS (
            SELECT
            FROM event_ids
            WHERE event_id = replayed.replayed_as AND content_id = replayed.replayed_content_id
        ) OR EXISTS (
            SELECT
            FROM reused_event_ids
            WHERE event_id = replayed.replayed_as AND content_id = replayed.replayed_content_id
        ) AS is_applied
    FROM unnest($1::bigint[], $2::timestamptz[]) AS followed (dead_letter_id, since)
    JOIN dead_letters AS replayed USING (dead_letter_id)
) AS outcomes
WHERE is_back OR is_applied
"""

CAME_BACK = """
SELECT dead_letter_id
FROM dead_letters
WHERE replay_of = $1
ORDER BY dead_letter_id
LIMIT 20
"""

WAS_REVEALED = """
SELECT EXISTS (
    SELECT
    FROM dead_letter_audit
    WHERE dead_letter_id = $1 AND who = $2 AND action = 'revealed'
)
"""

DISCARD = """
UPDATE dead_letters
SET state = 'discarded'
WHERE dead_letter_id = ANY($1::bigint[]) AND state = 'waiting'
RETURNING dead_letter_id
"""

# Changes nothing if the body is not the one that was read.
CHANGE_BODY = """
UPDATE dead_letters
SET body = $2, original_body = coalesce(original_body, body), type = $4, entity_id = $5
WHERE dead_letter_id = $1 AND body = $3 AND state = 'waiting'
RETURNING dead_letter_id
"""

NOTE_ACTION = """
INSERT INTO dead_letter_audit (dead_letter_id, who, action, reason)
SELECT *, $2, $3, $4
FROM unnest($1::bigint[])
"""

ACTIONS = """
SELECT at, who, action, reason
FROM dead_letter_audit
WHERE dead_letter_id = $1
ORDER BY audit_id
"""


class NoSuchLetter(StockhookError):
    """The text says which."""


class State(StrEnum):
    WAITING = "waiting"
    REPLAYING = "replaying"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


class Action(StrEnum):
    REVEALED = "revealed"
    EDITED = "edited"
    REPAIRED = "repaired"
    DISCARDED = "discarded"
    REPLAYED = "replayed"


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A row of `dead_letters`."""

    dead_letter_id: int
    origin: str
    state: str
    event_id: UUID
    provider: str | None
    type: str
    entity_id: str | None
    reason: str
    exception: str | None
    fingerprint: str
    attempts: int
    received_at: datetime | None
    first_failed_at: datetime | None
    last_failed_at: datetime | None
    arrived_at: datetime
    headers: Mapping[str, Any]
    body: bytes
    original_body: bytes | None
    provenance: str | None
    evidence: Mapping[str, str] | None
    replayed_as: UUID | None
    replay_of: int | None

    @classmethod
    def of(cls, row: Any) -> Self:
        values = {field.name: row[field.name] for field in fields(cls)}
        evidence = values["evidence"]
        return cls(
            **values
            | {
                "headers": orjson.loads(values["headers"]),
                "evidence": None if evidence is None else orjson.loads(evidence),
            }
        )


def provenance_of(letter: StoredLetter) -> Provenance:
    """Where the event of a letter came from.

    An archiver of an older release, which may run during an upgrade, stores only the headers. If these cannot
    be read, a marketplace counts as the origin. So it does if only the event's type says otherwise and the
    letter came back from a replay: what was replayed may be from the quarantine.
    """
    if letter.provenance is not None:
        return Provenance(letter.provenance)
    try:
        envelope = Envelope.from_headers(letter.headers)
    except InvalidEnvelope:
        return Provenance.WEBHOOK
    if letter.replay_of is not None and envelope.recorded_provenance is None:
        return Provenance.WEBHOOK
    return provenance_in(letter.origin, envelope)


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


async def waiting_by_origin(connection: Connection) -> dict[str, int]:
    """How many dead letters wait in the table. An origin without any is left out."""
    return {row["origin"]: row["letters"] for row in await connection.fetch(WAITING_BY_ORIGIN)}


async def insert(connection: Connection, letters: Iterable[Letter]) -> None:
    for letter in letters:
        await connection.execute(INSERT_LETTER, *astuple(letter))


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


async def get(database: Database, dead_letter_id: int) -> StoredLetter:
    """Raises: NoSuchLetter."""
    async with database.connection() as connection:
        rows = await connection.fetch(GET_LETTER, dead_letter_id)
    if not rows:
        raise NoSuchLetter(f"there is no dead letter {dead_letter_id}")
    return StoredLetter.of(rows[0])


async def history(connection: Connection, dead_letter_id: int) -> list[dict[str, Any]]:
    """What was done to a letter, the oldest first: when, by whom, and why."""
    return [dict(row) for row in await connection.fetch(ACTIONS, dead_letter_id)]


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


async def last_id(connection: Connection) -> int:
    """The highest id so far; 0 if there is no letter."""
    rows = await connection.fetch(LAST_ID)
    return int(rows[0]["coalesce"])


async def groups(connection: Connection, selection: Selection) -> list[dict[str, Any]]:
    """One per kind of failure and origin, those with the most letters first."""
    return [dict(row) for row in await connection.fetch(GROUP_LETTERS, *selection.arguments())]


async def note(
    connection: Connection, ids: Sequence[int], who: str, action: Action, reason: str | None
) -> None:
    await connection.execute(NOTE_ACTION, list(ids), who, action.value, reason)


async def discard(connection: Connection, ids: Sequence[int], who: str, reason: str) -> list[int]:
    """Mark those that wait as discarded, and note who did so; returns their ids in ascending order."""
    rows = await connection.fetch(DISCARD, list(ids))
    discarded = sorted(row["dead_letter_id"] for row in rows)
    await note(connection, discarded, who, Action.DISCARDED, reason)
    return discarded
