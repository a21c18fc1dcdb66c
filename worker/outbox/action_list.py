"""Lists, counts and single rows of the table `actions`, for people and metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from consumers.family import Connection
from worker.outbox.actions import STATES

LIST = """
SELECT action_id, kind, key, subject, state, attempts, event_id, created_at, published_at, started_at,
    finished_at, outcome
FROM actions
WHERE ($1::text IS NULL OR state = $1)
    AND ($2::text IS NULL OR kind = $2)
    AND ($3::text IS NULL OR subject = $3)
ORDER BY created_at DESC, key
LIMIT $4
"""

SHOW = """
SELECT action_id, kind, key, subject, state, attempts, event_id, created_at, published_at, started_at,
    finished_at, outcome, request, is_encrypted, traceparent, published_traceparent
FROM actions
WHERE action_id = $1
"""

# The newest first, at most $3 before the position ($1, $2); from the index actions_by_state.
NEWEST_OF_STATES = """
SELECT newest.action_id, newest.created_at, newest.state, newest.kind
FROM unnest($4::text[]) AS wanted (state)
CROSS JOIN LATERAL (
    SELECT action_id, created_at, state, kind
    FROM actions
    WHERE actions.state = wanted.state
        AND ($1::timestamptz IS NULL OR created_at <= $1)
        AND ($1::timestamptz IS NULL OR (created_at, action_id) < ($1, $2::uuid))
    ORDER BY created_at DESC, action_id DESC
    LIMIT $3
) AS newest
ORDER BY newest.created_at DESC, newest.action_id DESC
LIMIT $3
"""

# As above, from the index actions_by_subject.
NEWEST_OF_SUBJECT = """
SELECT action_id, created_at, state, kind
FROM actions
WHERE subject = $4
    AND ($1::timestamptz IS NULL OR (created_at, action_id) < ($1, $2::uuid))
ORDER BY created_at DESC, action_id DESC
LIMIT $3
"""

LISTED = """
SELECT action_id, kind, key, subject, state, attempts, event_id, created_at, published_at, started_at,
    finished_at, outcome
FROM actions
WHERE action_id = ANY($1::uuid[])
ORDER BY created_at DESC, action_id DESC
"""

# At most $2 of each state are counted, from the index actions_by_state.
COUNT_BOUNDED = """
SELECT wanted.state, counted.actions, counted.oldest_at
FROM unnest($1::text[]) AS wanted (state)
CROSS JOIN LATERAL (
    SELECT count(*) AS actions, min(created_at) AS oldest_at
    FROM (
        SELECT created_at
        FROM actions
        WHERE actions.state = wanted.state
        ORDER BY created_at
        LIMIT $2
    ) AS oldest
) AS counted
"""

COUNTS = """
SELECT state, kind, count(*) AS actions,
    coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_seconds
FROM actions
WHERE state IN ('due', 'doing', 'refused', 'failed', 'unknown')
GROUP BY state, kind
"""


@dataclass(frozen=True, slots=True)
class Position:
    """An action's place in the list, which is sorted by time and id, and what the list is filtered by."""

    action_id: UUID
    created_at: datetime
    state: str
    kind: str


@dataclass(frozen=True, slots=True)
class StateCount:
    actions: int
    oldest_at: datetime | None


async def select(
    connection: Connection, state: str | None, kind: str | None, subject: str | None, limit: int
) -> list[dict[str, Any]]:
    """The newest first."""
    return [_readable(row) for row in await connection.fetch(LIST, state, kind, subject, limit)]


async def newest(
    connection: Connection, after: Position | None, limit: int, *, states: Sequence[str], subject: str | None
) -> list[Position]:
    """The newest actions after this position, at most `limit`: of one subject, or else of these states."""
    at, action_id = (None, None) if after is None else (after.created_at, after.action_id)
    rows = (
        await connection.fetch(NEWEST_OF_STATES, at, action_id, limit, list(states))
        if subject is None
        else await connection.fetch(NEWEST_OF_SUBJECT, at, action_id, limit, subject)
    )
    return [Position(row["action_id"], row["created_at"], row["state"], row["kind"]) for row in rows]


async def listed(connection: Connection, action_ids: Sequence[UUID]) -> list[dict[str, Any]]:
    """The actions with these ids, the newest first, without their requests."""
    return [_readable(row) for row in await connection.fetch(LISTED, list(action_ids))]


async def counts(connection: Connection, limit: int) -> dict[str, StateCount]:
    """How many actions have each state, at most `limit`, and since when the oldest of them exists."""
    rows = await connection.fetch(COUNT_BOUNDED, list(STATES), limit)
    by_state = {row["state"]: StateCount(row["actions"], row["oldest_at"]) for row in rows}
    return {state: by_state[state] for state in STATES}


async def get(connection: Connection, action_id: UUID) -> dict[str, Any] | None:
    """The action with its request."""
    rows = await connection.fetch(SHOW, action_id)
    return _readable(rows[0]) if rows else None


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "outcome": row["outcome"] and orjson.loads(row["outcome"])}
