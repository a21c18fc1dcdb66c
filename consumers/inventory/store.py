"""The table `parts`, and a part's earlier events from the event log."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from typing import Any

from consumers.family import Connection, Event, Family, Table, write
from consumers.inventory import sequence
from consumers.inventory.actions import required_actions
from consumers.inventory.changes import change_type, public_state
from consumers.inventory.decide import decide
from consumers.inventory.details import PartDetails, load_details
from consumers.inventory.earlier_events import NOTHING, Reading, reading, with_history, with_nearby
from consumers.inventory.part import Part
from consumers.inventory.sequence import Step
from consumers.inventory.status import StatusChange
from consumers.inventory.summary import summarized, summary_of
from consumers.logged import read_logged
from schemas.ovoko import PartEvent, PartObserved, PartStatusChanged

# Only rows of earlier releases have instants that are implausible today.
LOAD_PARTS = """
SELECT part_id, external_id, external_id_at, status, occurred_at, event_id, revision, has_implausible,
    summary, greatest(occurred_at, external_id_at) > now() + $2::interval AS is_implausible
FROM parts
WHERE part_id = ANY($1::text[])
ORDER BY part_id
"""

LOCK_PARTS = LOAD_PARTS + "FOR UPDATE"

LOAD_HISTORY = """
SELECT seq, coalesce(reuse_of, event_id) AS event_id, provider, entity_id, received_at, body
FROM event_log
WHERE entity_id = ANY($1::text[]) AND family = 'inventory'
"""

# The plausible events at an instant, and at the nearest instants before and after. Each index of a month is
# read at these three places, whatever it holds of the part besides.
LOAD_NEARBY = """
SELECT logged.seq, logged.event_id, logged.provider, wanted.part_id AS entity_id, logged.received_at,
    logged.body,
    EXISTS (SELECT FROM reused_event_ids AS reused WHERE reused.event_id = logged.event_id) AS is_reused
FROM unnest($1::text[], $2::timestamptz[]) AS wanted (part_id, instant)
CROSS JOIN LATERAL (
    (
        SELECT occurred_at
        FROM event_log
        WHERE entity_id = wanted.part_id AND occurred_at < wanted.instant AND family = 'inventory'
            AND occurred_at - received_at <= $3::interval
        ORDER BY occurred_at DESC
        LIMIT 1
    )
    UNION ALL
    SELECT wanted.instant
    UNION ALL
    (
        SELECT occurred_at
        FROM event_log
        WHERE entity_id = wanted.part_id AND occurred_at > wanted.instant AND family = 'inventory'
            AND occurred_at - received_at <= $3::interval
        ORDER BY occurred_at
        LIMIT 1
    )
) AS near
CROSS JOIN LATERAL (
    SELECT seq, coalesce(reuse_of, event_id) AS event_id, provider, received_at, body
    FROM event_log
    WHERE entity_id = wanted.part_id AND occurred_at = near.occurred_at AND family = 'inventory'
        AND occurred_at - received_at <= $3::interval
    LIMIT $4::bigint
) AS logged
"""

LOAD_BETWEEN = """
SELECT logged.seq, coalesce(reuse_of, logged.event_id) AS event_id, logged.provider, logged.entity_id,
    logged.received_at, logged.body,
    EXISTS (
        SELECT FROM reused_event_ids AS reused WHERE reused.event_id = coalesce(reuse_of, logged.event_id)
    ) AS is_reused
FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) AS wanted (part_id, earliest, latest)
JOIN event_log AS logged
    ON entity_id = wanted.part_id AND occurred_at > wanted.earliest AND occurred_at <= wanted.latest
WHERE family = 'inventory'
"""

SAVE_PARTS = """
INSERT INTO parts AS part
    (part_id, external_id, external_id_at, status, occurred_at, event_id, revision, has_implausible,
     summary)
SELECT *
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::timestamptz[], $6::uuid[],
            $7::bigint[], $8::boolean[], $9::json[])
ON CONFLICT (part_id) DO UPDATE
SET external_id = excluded.external_id,
    external_id_at = excluded.external_id_at,
    status = excluded.status,
    occurred_at = excluded.occurred_at,
    event_id = excluded.event_id,
    revision = excluded.revision,
    has_implausible = excluded.has_implausible,
    summary = excluded.summary
WHERE part.revision = excluded.revision - 1
"""


async def load(connection: Connection, events: Sequence[Event[PartEvent]], *, lock: bool) -> dict[str, Part]:
    new: defaultdict[str, list[Event[PartEvent]]] = defaultdict(list)
    for event in events:
        new[event.payload.entity_id].append(event)
    tolerance = events[0].tolerance
    rows = await connection.fetch(LOCK_PARTS if lock else LOAD_PARTS, sorted(new), tolerance)
    parts = {row["part_id"]: _part(row) for row in rows}
    readings = {
        part_id: wanted
        for part_id, part in parts.items()
        if (wanted := reading(part, new[part_id])) is not NOTHING
    }
    rows, reused = await _load_some(connection, readings, max(map(len, new.values())), tolerance)
    whole = {part_id for part_id, wanted in readings.items() if wanted.everything or part_id in reused}
    if whole:
        rows += await connection.fetch(LOAD_HISTORY, sorted(whole))
    logged = _by_part(rows, tolerance)
    for part_id in logged.keys() | whole:
        complete = with_history if part_id in whole else with_nearby
        parts[part_id] = complete(parts[part_id], logged[part_id], new[part_id])
    return parts


def _part(row: Mapping[str, Any]) -> Part:
    latest = StatusChange.of_status(row["status"], row["occurred_at"], row["event_id"])
    part = Part(
        part_id=row["part_id"],
        latest=latest,
        external_id=row["external_id"],
        external_id_at=row["external_id_at"],
        revision=row["revision"],
        has_implausible=row["has_implausible"],
        is_current=not row["is_implausible"],
        nearby=(Step(latest, is_observed=False),),
    )
    part = summarized(part, row["summary"])
    return with_nearby(part, ()) if part.has_implausible else part


async def _load_some(
    connection: Connection, readings: Mapping[str, Reading], new: int, tolerance: timedelta
) -> tuple[list[Any], set[str]]:
    """The events around new ones, and the parts with events whose ids were used for others, too.

    A part has at most `new` new events.
    """
    rows: list[Any] = []
    around = [(part_id, at) for part_id, wanted in readings.items() for at in sorted(wanted.around)]
    if around:
        # New events are in the log, too: without them, more than MOST_AT_ONCE are left if there are more.
        columns = map(list, zip(*around, strict=True))
        rows += await connection.fetch(LOAD_NEARBY, *columns, tolerance, sequence.MOST_AT_ONCE + 1 + new)
    between = [(part_id, *wanted.between) for part_id, wanted in readings.items() if wanted.between]
    if between:
        rows += await connection.fetch(LOAD_BETWEEN, *map(list, zip(*between, strict=True)))
    return rows, {row["entity_id"] for row in rows if row["is_reused"]}


def _by_part(rows: Iterable[Any], tolerance: timedelta) -> Mapping[str, Collection[Event[PartEvent]]]:
    logged: defaultdict[str, dict[int, Event[PartEvent]]] = defaultdict(dict)
    for row in rows:
        # By the column, not by the payload: an earlier release logged ids in other spellings.
        events = logged[row["entity_id"]]
        if row["seq"] not in events and (event := read_logged(row, tolerance)) is not None:
            events[row["seq"]] = event
    return defaultdict(tuple, {part_id: tuple(events.values()) for part_id, events in logged.items()})


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
            summary_of(part),
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
    internal=frozenset(
        {
            "revision",
            "rank",
            "has_implausible",
            "written_off_since",
            "is_crowded",
            "reports",
            "is_current",
            "known",
            "nearby",
            "recomputed",
        }
    ),
)
