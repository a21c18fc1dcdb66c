"""The table `actions`: what was asked for, how far it is, and what came of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from consumers.family import Connection
from schemas.actions import Action

CHANNEL = "stockhook_actions"

# A replay finds its own row there and changes nothing. Sorted by key, so that two transactions that ask
# for the same wait for each other in one direction.
ASK = f"""
WITH asked AS (
    INSERT INTO actions (kind, key, subject, request, event_id, is_sealed)
    SELECT *
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::uuid[], $6::boolean[])
    ON CONFLICT (key) DO NOTHING
    RETURNING action_id, state
)
SELECT action_id, pg_notify('{CHANNEL}', '')
FROM asked
"""

# Of each kind so many as leave no more than $2 in the queue that nobody has taken yet. One of a kind that
# is not known here waits for who knows it.
TO_PUBLISH = """
SELECT due.action_id, due.kind
FROM unnest($1::text[]) AS known (kind)
CROSS JOIN LATERAL (
    SELECT action_id, kind, created_at
    FROM actions
    WHERE actions.kind = known.kind AND published_at IS NULL AND state = 'due'
    ORDER BY created_at
    LIMIT greatest(0, $2 - (
        SELECT count(*)
        FROM actions AS queued
        WHERE queued.kind = known.kind
            AND queued.published_at IS NOT NULL
            AND queued.state = 'due'
            AND queued.attempts = 0
    ))
    FOR UPDATE SKIP LOCKED
) AS due
ORDER BY due.created_at
"""

PUBLISHED = """
UPDATE actions
SET published_at = now()
WHERE action_id = ANY($1::uuid[])
"""

# One that is found under way was begun by a process that ended, or lost its connection: in the second
# case what it says in the end stands.
# Its place in the queue is free, so who publishes is told.
TAKE = f"""
WITH taken AS (
    UPDATE actions
    SET state = CASE state WHEN 'doing' THEN 'unknown' ELSE state END,
        attempts = CASE state WHEN 'due' THEN $2 ELSE attempts END,
        finished_at = CASE state WHEN 'doing' THEN now() END,
        outcome = CASE state WHEN 'doing' THEN $3::json ELSE outcome END
    WHERE action_id = $1 AND state IN ('due', 'doing')
    RETURNING kind, subject, state, request, is_sealed
)
SELECT kind, subject, state, request, is_sealed, pg_notify('{CHANNEL}', '') AS told
FROM taken
"""

# Whoever begins one of a subject sees what was begun before it.
LOCK_SUBJECT = "SELECT pg_advisory_xact_lock(hashtextextended('stockhook.actions ' || $1, 0))"

BEGIN = """
UPDATE actions
SET state = 'doing', begun_at = now()
WHERE action_id = $1 AND state = 'due'
"""

# Of those who had it in hand at once, the one that knows more says what came of it.
FINISH = """
UPDATE actions
SET state = $2,
    outcome = $3::json,
    finished_at = now(),
    request = CASE WHEN $2 = 'done' AND is_sealed THEN ''::bytea ELSE request END
WHERE action_id = $1
    AND (state IN ('due', 'doing') OR (state = 'unknown' AND $2 <> 'unknown'))
"""

PUT_OFF = """
UPDATE actions
SET state = 'due', outcome = $2::json
WHERE action_id = $1 AND state IN ('due', 'doing')
"""


ENDED_UNDER_WAY = "the process ended while the request was under way"


class BegunElsewhere(Exception):
    """Another process has the same action in hand."""


@dataclass(frozen=True, slots=True)
class Taken:
    """`state` is `due`, or `unknown` for one that was found under way."""

    action_id: UUID
    kind: str
    subject: str
    state: str
    request: bytes
    is_sealed: bool


async def ask(connection: Connection, actions: Sequence[Action]) -> None:
    """Ask for each whose key is new, in the transaction of the events that call for them."""
    rows = [
        (action.kind, action.key, action.subject, action.request.model_dump_json().encode(), action.event_id)
        for action in sorted({action.key: action for action in actions}.values(), key=_key)
    ]
    if rows:
        columns = map(list, zip(*rows, strict=True))
        await connection.fetch(ASK, *columns, [False] * len(rows))


def _key(action: Action) -> str:
    return action.key


async def enqueue(
    connection: Connection, kind: str, key: str, subject: str, request: bytes, *, is_sealed: bool
) -> UUID | None:
    """Ask for one that no event called for; None where its key is taken."""
    rows = await connection.fetch(ASK, [kind], [key], [subject], [request], [None], [is_sealed])
    return rows[0]["action_id"] if rows else None


async def to_publish(connection: Connection, kinds: Collection[str], at_once: int) -> list[Any]:
    """Due ones that nobody else publishes, the oldest first; they are held until the commit."""
    return await connection.fetch(TO_PUBLISH, list(kinds), at_once)


async def note_published(connection: Connection, action_ids: Sequence[UUID]) -> None:
    await connection.execute(PUBLISHED, action_ids)


async def take(connection: Connection, action_id: UUID, attempt: int) -> Taken | None:
    """One that is to be done, or is in doubt; None where there is nothing left to do."""
    rows = await connection.fetch(TAKE, action_id, attempt, _json({"reason": ENDED_UNDER_WAY}))
    if not rows:
        return None
    row = rows[0]
    return Taken(action_id, row["kind"], row["subject"], row["state"], row["request"], row["is_sealed"])


async def lock_subject(connection: Connection, subject: str) -> None:
    await connection.execute(LOCK_SUBJECT, subject)


async def begin(connection: Connection, action_id: UUID) -> None:
    """Raises: BegunElsewhere."""
    if not (await connection.execute(BEGIN, action_id)).endswith(" 1"):
        raise BegunElsewhere


async def finish(connection: Connection, action_id: UUID, state: str, outcome: Mapping[str, object]) -> None:
    await connection.execute(FINISH, action_id, state, _json(outcome))


async def put_off(connection: Connection, action_id: UUID, outcome: Mapping[str, object]) -> None:
    await connection.execute(PUT_OFF, action_id, _json(outcome))


def _json(outcome: Mapping[str, object]) -> str:
    return orjson.dumps(outcome, default=str).decode()
