"""The expected content of the tables: the real `decide` and `save` of each family, in memory, in one batch.

The model applies the events of the event log, not the answered ones: an event without an answer may have
been applied or not. Another check compares the log to the answers.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from consumers.effects import Effects, apply_events
from consumers.family import Connection, Event
from consumers.registry import FAMILIES, FAMILY_OF, AnyFamily
from schemas.events import parse, routing_key_of
from schemas.registry import Provider
from tests.chaos.load import CLOCK_TOLERANCE, Identity, Taken

Row = tuple[Any, ...]
Tables = dict[str, dict[Row, Mapping[str, Any]]]

_INSERT = re.compile(
    r"INSERT INTO (?P<table>\w+)[^(]*\((?P<columns>[^)]*)\)(?P<source>.*?)ON CONFLICT", re.DOTALL
)
_ARRAY = re.compile(r"\$(\d+)::")

# The key of each table; the other tables are sets of whole rows.
KEYS = {
    "parts": ("part_id",),
    "orders": ("order_id",),
    "returns": ("return_id",),
    "buyback_orders": ("order_id",),
    "buyback_items": ("order_id", "item_id"),
    "buyback_shipments": ("order_id", "tracking_code"),
    "reminders": ("order_id", "kind", "occurred_at"),
    "findings": ("kind", "family", "entity_id", "event_id"),
    "communications": ("event_id", "kind"),
}

# Depend on the batches; or are encrypted, with a different result each time.
NOT_COMPARED = {"revision", "summary", "payment_details_encrypted"}
LISTED = 10


@dataclass(slots=True)
class Written:
    """A connection that records the writes of `save`, as rows by column."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))

    async def fetch(self, query: str, *args: object) -> list[Any]:
        raise AssertionError("the model starts empty and reads nothing")

    async def execute(self, query: str, *args: object) -> str:
        """Each table that the statement inserts into has one array per column, in their order."""
        rows: list[Row] = []
        for match in _INSERT.finditer(query):
            columns = [column.strip() for column in match["columns"].split(",")]
            rows = list(
                zip(*(args[int(number) - 1] for number in _ARRAY.findall(match["source"])), strict=True)
            )  # type: ignore[call-overload]
            self.rows[match["table"]] += [dict(zip(columns, row, strict=True)) for row in rows]
        return f"INSERT 0 {len(rows)}"


async def model(events: Iterable[Taken], unhandled_types: Iterable[str]) -> Tables:
    """Return the tables after these events, each identity applied once.

    `unhandled_types` are the types of the events that are stored as unhandled: each has a finding.
    """
    by_family: defaultdict[str, list[Event[Any]]] = defaultdict(list)
    contents: defaultdict[tuple[Provider, UUID], set[UUID]] = defaultdict(set)
    for taken in events:
        payload = parse(taken.provider, taken.message_body)
        family = FAMILY_OF[routing_key_of(type(payload))]
        event_id = taken.identity.event_id
        event = Event(event_id, datetime.now(UTC), payload, tolerance=CLOCK_TOLERANCE)
        by_family[family].append(event)
        contents[taken.provider, event_id].add(taken.identity.content_id)

    written = Written()
    for name, family_events in by_family.items():
        effects = await apply_events(_from_nothing(FAMILIES[name]), written, family_events)
        _note(written, name, effects)
    for (_, event_id), different in contents.items():
        if len(different) > 1:
            written.rows["findings"].append(
                {"kind": "event_id_reused", "family": "any", "entity_id": str(event_id), "event_id": event_id}
            )
    written.rows["findings"] += [
        {"kind": "unhandled_event_type", "family": "any", "entity_id": name, "event_id": None}
        for name in unhandled_types
    ]
    return {table: _keyed(table, written.rows[table]) for table in KEYS}


def _from_nothing(family: AnyFamily) -> AnyFamily:
    async def load(
        _connection: Connection, _events: Sequence[Event[Any]], *, lock: bool
    ) -> Mapping[Any, Any]:
        return {}

    return replace(family, load=load)


def _note(written: Written, family: str, effects: Effects) -> None:
    for finding in effects.findings:
        written.rows["findings"].append(
            {
                "kind": finding.kind,
                "family": family,
                "entity_id": finding.entity_id,
                "event_id": finding.event_id,
            }
        )
    for call in effects.communications:
        written.rows["communications"].append(
            {
                "event_id": call.event_id,
                "kind": call.kind.value,
                "order_id": call.order_id,
                "item_id": call.item_id,
                "occurred_at": call.occurred_at,
            }
        )


async def stored(url: str, columns: Mapping[str, Iterable[str]]) -> Tables:
    """Read the same tables from Postgres."""
    connection = await asyncpg.connect(url)
    try:
        return {
            table: _keyed(
                table,
                [dict(row) for row in await connection.fetch(f"SELECT {', '.join(names)} FROM {table}")],
            )
            for table, names in columns.items()
        }
    finally:
        await connection.close()


def columns_of(tables: Tables) -> dict[str, list[str]]:
    """The columns to compare: those of the model, or the key if the model has no row."""
    return {
        table: list(next(iter(rows.values()), dict.fromkeys(KEYS[table]))) for table, rows in tables.items()
    }


def _keyed(table: str, rows: Iterable[Mapping[str, Any]]) -> dict[Row, Mapping[str, Any]]:
    return {
        tuple(row[column] for column in KEYS[table]): {
            column: _comparable(column, value) for column, value in row.items() if column not in NOT_COMPARED
        }
        for row in rows
    }


def _comparable(column: str, value: Any) -> Any:
    """The rejection reasons are written as JSON and stored as an array."""
    if column == "rejection_reasons" and isinstance(value, str):
        return json.loads(value)
    if column == "rejection_reasons":
        return list(value or [])
    return value


def differences(expected: Tables, actual: Tables) -> list[str]:
    """One line per different row, a limited number per table."""
    lines: list[str] = []
    for table, rows in expected.items():
        others = actual[table]
        wrong = [f"{table}: {key} is missing" for key in rows.keys() - others.keys()]
        wrong += [f"{table}: {key} should not be there" for key in others.keys() - rows.keys()]
        wrong += [
            f"{table}: {key} is {_apart(others[key], row)} instead of {_apart(row, others[key])}"
            for key, row in rows.items()
            if key in others and others[key] != row
        ]
        lines += wrong[:LISTED]
        if len(wrong) > LISTED:
            lines.append(f"{table}: and {len(wrong) - LISTED} more")
    return lines


def _apart(row: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {column: value for column, value in row.items() if other.get(column) != value}


def applied_twice(expected: Tables, actual: Tables) -> int:
    """Updates of returns that were counted more often than they were sent."""
    return sum(
        max(0, actual["returns"][key]["update_count"] - row["update_count"])
        for key, row in expected["returns"].items()
        if key in actual["returns"]
    )


async def stored_unhandled_types(url: str) -> list[str]:
    """Return the types of the stored unhandled events, as `provider.type`."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT DISTINCT provider || '.' || type AS name FROM unhandled_events")
        return [row["name"] for row in rows]
    finally:
        await connection.close()


async def logged(url: str) -> Counter[Identity]:
    """The number of rows of each event in the event log."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT event_id AS id, coalesce(event_log.content_id, event_ids.content_id) AS content_id "
            "FROM event_log JOIN event_ids USING (event_id)"
        )
        return Counter(Identity(row["id"], row["content_id"]) for row in rows)
    finally:
        await connection.close()
