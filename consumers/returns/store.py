"""The table `returns`."""

from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import get_args

from consumers.family import Connection, Event, Family, Table, write
from consumers.returns.actions import required_actions
from consumers.returns.changes import change_type, public_state
from consumers.returns.decide import Return, ReturnPayload, decide
from consumers.returns.details import ReturnDetails, load_details

LOAD_RETURNS = """
SELECT return_id, order_id, opened_at, updated_at, update_count, revision, seen_at, gone_at
FROM returns
WHERE return_id = ANY($1::text[])
ORDER BY return_id
"""

LOCK_RETURNS = LOAD_RETURNS + "FOR UPDATE"

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


async def load(
    connection: Connection, events: Sequence[Event[ReturnPayload]], *, lock: bool
) -> dict[str, Return]:
    return_ids = sorted({event.payload.entity_id for event in events})
    rows = await connection.fetch(LOCK_RETURNS if lock else LOAD_RETURNS, return_ids)
    return {row["return_id"]: Return(**row) for row in rows}


async def save(connection: Connection, returns: Collection[Return]) -> None:
    rows = [
        (
            row.return_id,
            row.order_id,
            row.opened_at,
            row.updated_at,
            row.update_count,
            row.revision + 1,
            row.seen_at,
            row.gone_at,
        )
        for row in returns
    ]
    await write(connection, SAVE_RETURNS, rows)


def key(payload: ReturnPayload) -> str:
    return payload.entity_id


RETURNS: Family[ReturnPayload, str, Return] = Family(
    name="returns",
    entity="return",
    payloads=get_args(ReturnPayload),
    tables=(
        Table(
            "returns",
            key=("return_id",),
            entity="return_id",
            detail_columns=tuple(field.name for field in fields(ReturnDetails) if field.name != "items"),
            detail_tables=("return_items",),
        ),
    ),
    key=key,
    load=load,
    decide=decide,
    save=save,
    change_type=change_type,
    public_state=public_state,
    required_actions=required_actions,
    load_details=load_details,
)
