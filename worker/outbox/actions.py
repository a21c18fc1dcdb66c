"""The table `actions`: requests to marketplaces, their state, and their outcome."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from consumers.family import Connection
from schemas.actions import Action
from schemas.changes import NO_CONTEXTS
from worker.postgres.locks import LOCK_NAME_IN_TRANSACTION, AdvisoryLockClass

CHANNEL = "stockhook_actions"

STATES = ("due", "doing", "unknown", "refused", "failed", "done")

UNFINISHED = ("due", "doing", "refused", "failed", "unknown")

# A replay finds its own row there and changes nothing. Sorted by key, so that two transactions that
# enqueue the same actions wait for each other in one direction.
ENQUEUE = f"""
WITH enqueued AS (
    INSERT INTO actions (kind, key, subject, request, event_id, is_encrypted, traceparent)
    SELECT *
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::uuid[], $6::boolean[], $7::text[])
    ON CONFLICT (key) DO NOTHING
    RETURNING action_id, state
)
SELECT action_id, pg_notify('{CHANNEL}', '')
FROM enqueued
"""

# At most $2 actions per kind are in the queue and not claimed. An action that the queue lost counts for one
# hour. Actions of other kinds wait for a process that supports them.
TO_PUBLISH = """
SELECT due.action_id, due.kind, due.traceparent, due.published_traceparent
FROM unnest($1::text[]) AS supported (kind)
CROSS JOIN LATERAL (
    SELECT action_id, kind, created_at, traceparent, published_traceparent
    FROM actions
    WHERE actions.kind = supported.kind AND published_at IS NULL AND state = 'due'
    ORDER BY created_at
    LIMIT greatest(0, $2 - (
        SELECT count(*)
        FROM actions AS queued
        WHERE queued.kind = supported.kind
            AND queued.published_at > now() - interval '1 hour'
            AND queued.state = 'due'
            AND queued.attempts = 0
    ))
    FOR UPDATE SKIP LOCKED
) AS due
ORDER BY due.created_at
"""

PUBLISHED = """
UPDATE actions
SET published_at = now(),
    published_traceparent = coalesce(published.traceparent, actions.published_traceparent)
FROM unnest($1::uuid[], $2::text[]) AS published (action_id, traceparent)
WHERE actions.action_id = published.action_id
"""

# An action that is under way was started by a process that ended, or that lost its connection: in the second
# case the outcome that this process records later stands. The queue has room again, so the relay is notified.
CLAIM = f"""
WITH claimed AS (
    UPDATE actions
    SET state = CASE state WHEN 'doing' THEN 'unknown' ELSE state END,
        attempts = CASE state WHEN 'due' THEN $2 ELSE attempts END,
        finished_at = CASE state WHEN 'doing' THEN now() END,
        outcome = CASE state WHEN 'doing' THEN $3::json ELSE outcome END
    WHERE action_id = $1 AND state IN ('due', 'doing')
    RETURNING kind, subject, state, request, is_encrypted
)
SELECT kind, subject, state, request, is_encrypted, pg_notify('{CHANNEL}', '') AS notified
FROM claimed
"""

START = """
UPDATE actions
SET state = 'doing', started_at = now()
WHERE action_id = $1 AND state = 'due'
"""

# If two processes handled it at once, the more definite outcome stands.
FINISH = """
UPDATE actions
SET state = $2,
    outcome = $3::json,
    finished_at = now(),
    request = CASE WHEN $2 = 'done' AND is_encrypted THEN ''::bytea ELSE request END
WHERE action_id = $1
    AND (state IN ('due', 'doing') OR (state = 'unknown' AND $2 <> 'unknown'))
"""

POSTPONE = """
UPDATE actions
SET state = 'due', outcome = $2::json
WHERE action_id = $1 AND state IN ('due', 'doing')
"""

# The broker dead-lettered it by itself: it is not in flight, and no copy of it is in a retry queue.
GIVE_UP = """
UPDATE actions
SET state = CASE state WHEN 'doing' THEN 'unknown' ELSE 'failed' END, finished_at = now(),
    outcome = $2::json
WHERE action_id = $1 AND state IN ('due', 'doing')
"""

BY_KEY = """
SELECT action_id, kind, subject, state
FROM actions
WHERE key = $1
"""

# An attempt takes at most 5 minutes (ATTEMPT_SECONDS). After 10, its process has ended or lost its
# connection, and the outcome of the request is unknown.
RETRY = f"""
WITH retried AS (
    UPDATE actions
    SET state = 'due', published_at = NULL, finished_at = NULL, outcome = $2::json
    WHERE action_id = $1
        AND (state IN ('refused', 'failed')
            OR (state = 'due' AND published_at IS NOT NULL)
            OR ($3 AND state = 'unknown')
            OR ($3 AND state = 'doing' AND started_at < now() - interval '10 minutes'))
    RETURNING action_id
)
SELECT action_id, pg_notify('{CHANNEL}', '')
FROM retried
"""

CLOSE = """
UPDATE actions
SET state = 'done', finished_at = now(), outcome = $2::json,
    request = CASE WHEN is_encrypted THEN ''::bytea ELSE request END
WHERE action_id = $1
    AND (state IN ('due', 'refused', 'failed', 'unknown')
        OR (state = 'doing' AND started_at < now() - interval '10 minutes'))
RETURNING action_id
"""

ENDED_UNDER_WAY = "the process ended while the request was under way"


class StartedElsewhere(Exception):
    """Another process handles the same action."""


@dataclass(frozen=True, slots=True)
class ClaimedAction:
    """`state` is `due`, or `unknown` if the action was under way."""

    action_id: UUID
    kind: str
    subject: str
    state: str
    request: bytes
    is_encrypted: bool


async def enqueue_all(
    connection: Connection, actions: Sequence[Action], contexts: Mapping[UUID, str] = NO_CONTEXTS
) -> None:
    """Enqueue each action whose key is new, in the transaction of the events that require them.

    `contexts`: the `traceparent` of recorded events, by event id.
    """
    rows = [
        (
            action.kind,
            action.key,
            action.subject,
            action.request.model_dump_json().encode(),
            action.event_id,
            False,
            None if action.event_id is None else contexts.get(action.event_id),
        )
        for action in sorted({action.key: action for action in actions}.values(), key=_key)
    ]
    if rows:
        await connection.fetch(ENQUEUE, *map(list, zip(*rows, strict=True)))


def _key(action: Action) -> str:
    return action.key


async def enqueue(
    connection: Connection, kind: str, key: str, subject: str, request: bytes, *, is_encrypted: bool
) -> UUID | None:
    """Enqueue an action that no event requires; None if its key exists."""
    rows = await connection.fetch(
        ENQUEUE, [kind], [key], [subject], [request], [None], [is_encrypted], [None]
    )
    return rows[0]["action_id"] if rows else None


async def to_publish(connection: Connection, kinds: Collection[str], at_once: int) -> list[Any]:
    """Lock and return due actions that no other relay publishes, the oldest first."""
    return await connection.fetch(TO_PUBLISH, list(kinds), at_once)


async def note_published(connection: Connection, contexts: Mapping[UUID, str | None]) -> None:
    """`contexts`: the `traceparent` of the publish by action id; None if it is not recorded."""
    await connection.execute(PUBLISHED, list(contexts), list(contexts.values()))


async def claim(connection: Connection, action_id: UUID, attempt: int) -> ClaimedAction | None:
    """Claim an action that is due or under way; None if it has an outcome, also an unknown one."""
    rows = await connection.fetch(CLAIM, action_id, attempt, _json({"reason": ENDED_UNDER_WAY}))
    if not rows:
        return None
    row = rows[0]
    return ClaimedAction(
        action_id, row["kind"], row["subject"], row["state"], row["request"], row["is_encrypted"]
    )


async def lock_subject(connection: Connection, subject: str) -> None:
    # A transaction that starts an action of a subject sees every action that was started before.
    await connection.execute(LOCK_NAME_IN_TRANSACTION, AdvisoryLockClass.ACTIONS_OF_SUBJECT, subject)


async def mark_started(connection: Connection, action_id: UUID) -> None:
    """Raises: StartedElsewhere."""
    if not (await connection.execute(START, action_id)).endswith(" 1"):
        raise StartedElsewhere


async def finish(connection: Connection, action_id: UUID, state: str, outcome: Mapping[str, object]) -> None:
    await connection.execute(FINISH, action_id, state, _json(outcome))


async def give_up(connection: Connection, action_id: UUID) -> None:
    reason = "the broker dead-lettered the action: it was delivered too often"
    await connection.execute(GIVE_UP, action_id, _json({"reason": reason}))


async def postpone(connection: Connection, action_id: UUID, outcome: Mapping[str, object]) -> None:
    await connection.execute(POSTPONE, action_id, _json(outcome))


async def get_by_key(connection: Connection, key: str) -> dict[str, Any] | None:
    rows = await connection.fetch(BY_KEY, key)
    return dict(rows[0]) if rows else None


async def retry(
    connection: Connection, action_id: UUID, outcome: Mapping[str, object], *, may_repeat: bool
) -> bool:
    """Make an action due again; False if its state does not allow it.

    An action with an unknown outcome may then be executed twice: `may_repeat` says that this is intended.
    """
    return bool(await connection.fetch(RETRY, action_id, _json(outcome), may_repeat))


async def close(connection: Connection, action_id: UUID, outcome: Mapping[str, object]) -> bool:
    """Mark an action as done; False if its state does not allow it."""
    return bool(await connection.fetch(CLOSE, action_id, _json(outcome)))


def _json(outcome: Mapping[str, object]) -> str:
    return orjson.dumps(outcome, default=str).decode()
