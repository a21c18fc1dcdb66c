"""The table `parts`, and a part's earlier events from the event log."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from typing import Any

from consumers.family import Connection, Event, Family, Table, write
from consumers.inventory.actions import required_actions
from consumers.inventory.changes import change_type, public_state
from consumers.inventory.decide import Part, StatusChange, decide, needs_history, with_history
from consumers.inventory.details import PartDetails, load_details
from consumers.logged import read_logged
from schemas.ovoko import PartEvent, PartObserved, PartStatusChanged

LOAD_PARTS = """
SELECT part_id, external_id, external_id_at, status, occurred_at, event_id, revision, has_implausible
FROM parts
WHERE part_id = ANY($1::text[])
ORDER BY part_id
"""

LOCK_PARTS = LOAD_PARTS + "FOR UPDATE"

LOAD_HISTORY = """
SELECT coalesce(reuse_of, event_id) AS event_id, provider, entity_id, received_at, body
FROM event_log
WHERE entity_id = ANY($1::text[]) AND family = 'inventory'
"""

SAVE_PARTS = """
INSERT INTO parts AS part
    (part_id, external_id, external_id_at, status, occurred_at, event_id, revision, has_implausible)
SELECT *
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::timestamptz[], $6::uuid[],
            $7::bigint[], $8::boolean[])
ON CONFLICT (part_id) DO UPDATE
SET external_id = excluded.external_id,
    external_id_at = excluded.external_id_at,
    status = excluded.status,
    occurred_at = excluded.occurred_at,
    event_id = excluded.event_id,
    revision = excluded.revision,
    has_implausible = excluded.has_implausible
WHERE part.revision = excluded.revision - 1
"""


async def load(connection: Connection, events: Sequence[Event[PartEvent]], *, lock: bool) -> dict[str, Part]:
    new: defaultdict[str, list[Event[PartEvent]]] = defaultdict(list)
    for event in events:
        new[event.payload.entity_id].append(event)
    rows = await connection.fetch(LOCK_PARTS if lock else LOAD_PARTS, sorted(new))
    parts = {row["part_id"]: _part(row) for row in rows}
    incomplete = [part_id for part_id, part in parts.items() if needs_history(part, new[part_id])]
    if incomplete:
        logged_events = await _load_logged(connection, incomplete, events[0].tolerance)
        for part_id, logged in logged_events.items():
            parts[part_id] = with_history(parts[part_id], logged, new[part_id])
    return parts


def _part(row: Mapping[str, Any]) -> Part:
    return Part(
        part_id=row["part_id"],
        latest=StatusChange.of_status(row["status"], row["occurred_at"], row["event_id"]),
        external_id=row["external_id"],
        external_id_at=row["external_id_at"],
        revision=row["revision"],
        has_implausible=row["has_implausible"],
    )


async def _load_logged(
    connection: Connection, part_ids: list[str], tolerance: timedelta
) -> dict[str, list[Event[PartEvent]]]:
    logged: dict[str, list[Event[PartEvent]]] = {part_id: [] for part_id in part_ids}
    for row in await connection.fetch(LOAD_HISTORY, part_ids):
        event = read_logged(row, tolerance)
        if event is not None:
            # By the column, not by the payload: an earlier release logged ids in other spellings.
            logged[row["entity_id"]].append(event)
    return logged


async def save(connection: Connection, parts: Collection[Part]) -> None:
    rows = [
        (
            part.part_id,
            part.external_id,
            part.external_id_at,
            part.latest.status,
            part.latest.occurred_at,
            part.latest.event_id,
            part.revision + 1,
            part.has_implausible,
        )
        for part in parts
    ]
    await write(connection, SAVE_PARTS, rows)


def key(payload: PartEvent) -> str:
    return payload.entity_id


INVENTORY: Family[PartEvent, str, Part] = Family(
    name="inventory",
    entity="part",
    payloads=(PartStatusChanged, PartObserved),
    tables=(
        Table(
            "parts",
            key=("part_id",),
            entity="part_id",
            detail_columns=tuple(field.name for field in fields(PartDetails)),
        ),
    ),
    key=key,
    load=load,
    decide=decide,
    save=save,
    change_type=change_type,
    public_state=public_state,
    required_actions=required_actions,
    order_key=StatusChange.of,
    rests_on_receptions=lambda part: part.has_implausible,
    load_details=load_details,
    internal=frozenset({"revision", "history", "has_implausible", "rank"}),
)
