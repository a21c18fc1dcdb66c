"""Where the live tables of a family differ from their shadow, and putting that right."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from worker.tools.rebuild.shadow import Shadow
from worker.tools.rebuild.tables import TABLES, UNCOMPARED, Table

COLUMNS = """
SELECT attname AS name, attgenerated <> '' AS is_generated
FROM pg_attribute
WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
ORDER BY attnum
"""

# As text: json knows no equality. What both have falls out, however often it is there.
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

# The marketplace told them, not the log: what is live stands.
CARRY_DETAILS_OVER = """
UPDATE {shadow}.{table} AS rebuilt
SET {assignments}
FROM {live}.{table} AS live
WHERE live.{entity} = rebuilt.{entity} AND live.{entity} = ANY($1::text[])
"""

# Of an entity that there is not, as the log says.
FORGET_BESIDE = """
DELETE FROM {live}.{beside}
WHERE {entity} = ANY($1::text[])
    AND NOT EXISTS (SELECT FROM {live}.{table} AS kept WHERE kept.{entity} = {beside}.{entity})
"""

DELETE_ROWS = "DELETE FROM {live}.{table} WHERE {only} AND {entity} = ANY($1::text[])"

INSERT_ROWS = """
INSERT INTO {live}.{table} ({columns})
SELECT {columns}
FROM {shadow}.{table}
WHERE {entity} = ANY($1::text[])
"""

_PRIVATE = ("customer_", "payment_details", "account_number", "_url")
KEPT_BACK = "(kept back)"


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not what the log says. `columns` holds what is live and what was rebuilt."""

    table: str
    entity_id: str
    key: dict[str, str | None]
    kind: Literal["missing", "surplus", "different"]
    columns: dict[str, tuple[str | None, str | None]]


async def differences(shadow: Shadow, entities: Collection[str] | None = None) -> list[Difference]:
    """Of all rows, or of those of some entities. Both sides must be as of the same events."""
    found: list[Difference] = []
    for table in TABLES[shadow.family]:
        uncompared = UNCOMPARED.union(table.details)
        columns = [name for name, _ in await _columns(shadow, table) if name not in uncompared]
        statement = shadow.named(
            DIFFERENCES,
            table=table.name,
            only=table.only,
            entity=table.entity,
            all="true" if entities is None else "false",
            columns=", ".join(f"{name}::text" for name in columns),
        )
        rows = await shadow.connection.fetch(statement, sorted(entities or ()))
        found += _paired(table, columns, rows)
    return found


async def _columns(shadow: Shadow, table: Table) -> list[tuple[str, bool]]:
    rows = await shadow.connection.fetch(COLUMNS, f"{shadow.live}.{table.name}")
    return [(row["name"], row["is_generated"]) for row in rows]


def _paired(table: Table, columns: list[str], rows: list[Any]) -> Iterator[Difference]:
    sides: dict[tuple[str | None, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in table.key)
        sides.setdefault(key, {})[row["side"]] = row
    for key, found in sorted(sides.items(), key=repr):
        live, rebuilt = found.get("live"), found.get("rebuilt")
        names = [name for name in columns if live is None or rebuilt is None or live[name] != rebuilt[name]]
        yield Difference(
            table=table.name,
            entity_id=next(iter(found.values()))[table.entity],
            key=dict(zip(table.key, key, strict=True)),
            kind="missing" if live is None else "surplus" if rebuilt is None else "different",
            columns={
                name: (_shown(name, live and live[name]), _shown(name, rebuilt and rebuilt[name]))
                for name in names
                if name not in table.key
            },
        )


def _shown(column: str, value: str | None) -> str | None:
    return KEPT_BACK if value is not None and any(part in column for part in _PRIVATE) else value


async def repair_rows(shadow: Shadow, found: Collection[Difference]) -> None:
    """Put the shadow's rows in the place of those that differ, entity by entity."""
    for table in TABLES[shadow.family]:
        entities = sorted({one.entity_id for one in found if one.table == table.name})
        if not entities:
            continue
        columns = [
            name
            for name, is_generated in await _columns(shadow, table)
            if not is_generated and name != "finding_id"
        ]
        names = {"table": table.name, "entity": table.entity, "only": table.only}
        if table.details:
            assignments = ", ".join(f"{name} = live.{name}" for name in table.details)
            carry_over = shadow.named(CARRY_DETAILS_OVER, assignments=assignments, **names)
            await shadow.connection.execute(carry_over, entities)
        await shadow.connection.execute(shadow.named(DELETE_ROWS, **names), entities)
        await shadow.connection.execute(
            shadow.named(INSERT_ROWS, columns=", ".join(columns), **names), entities
        )
        for beside in table.beside:
            await shadow.connection.execute(shadow.named(FORGET_BESIDE, beside=beside, **names), entities)
