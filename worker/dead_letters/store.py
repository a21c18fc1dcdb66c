"""The tables `dead_letters` and `dead_letter_audit`."""

from collections.abc import Iterable, Mapping, Sequence
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

# The columns of a StoredLetter.
SELECT_LETTER = """
SELECT dead_letter_id, origin, state, event_id, provider, type, entity_id, reason, exception, fingerprint,
    attempts, received_at, first_failed_at, last_failed_at, arrived_at, headers, body, original_body,
    provenance, evidence, replayed_as, replay_of
"""

# A Selection of one id would read the whole primary key once its plan is cached.
GET_LETTER = (
    SELECT_LETTER
    + """FROM dead_letters
WHERE dead_letter_id = $1
"""
)

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


async def waiting_by_origin(connection: Connection) -> dict[str, int]:
    """How many dead letters wait in the table. An origin without any is left out."""
    return {row["origin"]: row["letters"] for row in await connection.fetch(WAITING_BY_ORIGIN)}


async def insert(connection: Connection, letters: Iterable[Letter]) -> None:
    for letter in letters:
        await connection.execute(INSERT_LETTER, *astuple(letter))


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


async def last_id(connection: Connection) -> int:
    """The highest id so far; 0 if there is no letter."""
    rows = await connection.fetch(LAST_ID)
    return int(rows[0]["coalesce"])


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
