"""The table `returns`."""

from collections.abc import Collection, Sequence

from consumers.family import Connection, Event, Family, write
from consumers.returns.actions import required_actions
from consumers.returns.changes import change_type, public_state
from consumers.returns.decide import Return, ReturnPayload, decide
from consumers.returns.why import why
from schemas.ovoko import ReturnCreated, ReturnObserved, ReturnUpdated

LOAD_RETURNS = """
SELECT return_id, order_id, opened_at, updated_at, update_count, revision, seen_at, gone_at
FROM returns
WHERE return_id = ANY($1::text[])
ORDER BY return_id
FOR UPDATE
"""

SAVE_RETURNS = """
INSERT INTO returns AS stored
    (return_id, order_id, opened_at, updated_at, update_count, revision, seen_at, gone_at)
SELECT *
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::integer[],
            $6::bigint[], $7::timestamptz[], $8::timestamptz[])
ON CONFLICT (return_id) DO UPDATE
SET order_id = excluded.order_id,
    opened_at = excluded.opened_at,
    updated_at = excluded.updated_at,
    update_count = excluded.update_count,
    revision = excluded.revision,
    seen_at = excluded.seen_at,
    gone_at = excluded.gone_at
WHERE stored.revision = excluded.revision - 1
"""


async def load(connection: Connection, events: Sequence[Event[ReturnPayload]]) -> dict[str, Return]:
    return_ids = sorted({event.payload.entity_id for event in events})
    rows = await connection.fetch(LOAD_RETURNS, return_ids)
    return {row["return_id"]: Return(**row) for row in rows}


async def save(connection: Connection, returns: Collection[Return]) -> None:
    rows = [
        (
            known.return_id,
            known.order_id,
            known.opened_at,
            known.updated_at,
            known.update_count,
            known.revision + 1,
            known.seen_at,
            known.gone_at,
        )
        for known in returns
    ]
    await write(connection, SAVE_RETURNS, rows)


def key(payload: ReturnPayload) -> str:
    return payload.entity_id


RETURNS: Family[ReturnPayload, str, Return] = Family(
    name="returns",
    payloads=(ReturnCreated, ReturnUpdated, ReturnObserved),
    key=key,
    load=load,
    decide=decide,
    save=save,
    why=why,
    change_type=change_type,
    public_state=public_state,
    required_actions=required_actions,
)
