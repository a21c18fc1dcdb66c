"""Finds the rows of a family's live tables that differ from the rebuilt ones, and repairs them."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from consumers.family import Table
from consumers.registry import FAMILIES, AnyFamily
from worker.tools.private_values import redacted
from worker.tools.rebuild.shadow import Shadow
from worker.tools.rebuild.tables import ROWS, UNCOMPARED

COLUMNS = """
SELECT attname AS name, attgenerated <> '' AS is_generated
FROM pg_attribute
WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
ORDER BY attnum
"""

# Compared as text, because json has no equality. EXCEPT removes rows that both sides have, and repeats.
DIFFERENCES = """
(
    SELECT 'live' AS side, {columns}
    FROM {live}.{table}
    WHERE {only} AND ({all} OR {entity} = ANY($1::text[]))
    EXCEPT
    SELECT 'live', {columns}
    FROM {shadow}.{table}
    WHERE {all} OR {entity} = ANY($1::text[])
)
UNION ALL
(
    SELECT 'rebuilt', {columns}
    FROM {shadow}.{table}
    WHERE {all} OR {entity} = ANY($1::text[])
    EXCEPT
    SELECT 'rebuilt', {columns}
    FROM {live}.{table}
    WHERE {only} AND ({all} OR {entity} = ANY($1::text[]))
)
"""

# Details come from the marketplace's API, not from the log: the live ones stay.
CARRY_DETAILS_OVER = """
UPDATE {shadow}.{table} AS rebuilt
SET {assignments}
FROM {live}.{table} AS live
WHERE live.{entity} = rebuilt.{entity} AND live.{entity} = ANY($1::text[])
"""

# Details of entities that do not exist according to the log.
DELETE_ORPHANED_DETAILS = """
DELETE FROM {live}.{detail_table}
WHERE {entity} = ANY($1::text[])
    AND NOT EXISTS (SELECT FROM {live}.{table} AS stored WHERE stored.{entity} = {detail_table}.{entity})
"""

DELETE_ROWS = "DELETE FROM {live}.{table} WHERE {only} AND {entity} = ANY($1::text[])"

INSERT_ROWS = """
INSERT INTO {live}.{table} ({columns})
SELECT {columns}
FROM {shadow}.{table}
WHERE {entity} = ANY($1::text[])
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that differs from the event log. `columns` holds the live and the rebuilt values."""

    table: str
    entity_id: str
    key: dict[str, str | None]
    kind: Literal["missing", "surplus", "different"]
    columns: dict[str, tuple[str | None, str | None]]


async def differences(shadow: Shadow, entities: Collection[str] | None = None) -> list[Difference]:
    """Compare all rows, or those of some entities. Both sides must hold the effects of the same events."""
    different: list[Difference] = []
    family = FAMILIES[shadow.family]
    for rows_of_family in ROWS[shadow.family]:
        table = rows_of_family.table
        uncompared = UNCOMPARED.union(table.detail_columns)
        columns = [name for name, _ in await _columns(shadow, table) if name not in uncompared]
        statement = shadow.named(
            DIFFERENCES,
            table=table.name,
            only=rows_of_family.only,
            entity=table.entity,
            all="true" if entities is None else "false",
            columns=", ".join(f"{name}::text" for name in columns),
        )
        rows = await shadow.connection.fetch(statement, sorted(entities or ()))
        different += _paired(family, table, columns, rows)
    return different


async def _columns(shadow: Shadow, table: Table) -> list[tuple[str, bool]]:
    rows = await shadow.connection.fetch(COLUMNS, f"{shadow.live}.{table.name}")
    return [(row["name"], row["is_generated"]) for row in rows]


def _paired(family: AnyFamily, table: Table, columns: list[str], rows: list[Any]) -> Iterator[Difference]:
    sides: dict[tuple[str | None, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in table.key)
        sides.setdefault(key, {})[row["side"]] = row
    for key, pair in sorted(sides.items(), key=repr):
        live, rebuilt = pair.get("live"), pair.get("rebuilt")
        names = [name for name in columns if live is None or rebuilt is None or live[name] != rebuilt[name]]
        yield Difference(
            table=table.name,
            entity_id=next(iter(pair.values()))[table.entity],
            key=dict(zip(table.key, key, strict=True)),
            kind="missing" if live is None else "surplus" if rebuilt is None else "different",
            columns={
                name: (
                    redacted(family, name, live and live[name]),
                    redacted(family, name, rebuilt and rebuilt[name]),
                )
                for name in names
                if name not in table.key
            },
        )


async def repair_rows(shadow: Shadow, different: Collection[Difference]) -> None:
    """Replace the rows of each entity that has a different row by the rebuilt ones."""
    for rows_of_family in ROWS[shadow.family]:
        table = rows_of_family.table
        entities = sorted({one.entity_id for one in different if one.table == table.name})
        if not entities:
            continue
        columns = [
            name
            for name, is_generated in await _columns(shadow, table)
            if not is_generated and name != "finding_id"
        ]
        names = {"table": table.name, "entity": table.entity, "only": rows_of_family.only}
        if table.detail_columns:
            assignments = ", ".join(f"{name} = live.{name}" for name in table.detail_columns)
            carry_over = shadow.named(CARRY_DETAILS_OVER, assignments=assignments, **names)
            await shadow.connection.execute(carry_over, entities)
        await shadow.connection.execute(shadow.named(DELETE_ROWS, **names), entities)
        await shadow.connection.execute(
            shadow.named(INSERT_ROWS, columns=", ".join(columns), **names), entities
        )
        for detail_table in table.detail_tables:
            delete = shadow.named(DELETE_ORPHANED_DETAILS, detail_table=detail_table, **names)
            await shadow.connection.execute(delete, entities)
