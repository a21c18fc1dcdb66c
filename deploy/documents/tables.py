"""The tables and their columns, from the catalog of a migrated database and the comments in it."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from deploy.local.packages import downloaded_postgres
from deploy.local.ports import choose_ports
from deploy.local.postgres import PostgresNode, PostgresSettings
from deploy.local.process import Spawner
from deploy.local.programs import installed_postgres
from deploy.local.services import PACKAGES
from worker.postgres.migrations import migrate
from worker.postgres.pool import Database

# Partitions have the columns of their table; schema_migrations belongs to the migration runner.
_COLUMNS = """
SELECT
    class.relname AS table_name,
    coalesce(obj_description(class.oid), '') AS table_comment,
    attribute.attname AS column_name,
    format_type(attribute.atttypid, attribute.atttypmod) AS type,
    attribute.attnotnull AS required,
    coalesce(attribute.attnum = ANY (key.conkey), false) AS in_key,
    coalesce(col_description(class.oid, attribute.attnum), '') AS comment
FROM pg_class AS class
JOIN pg_attribute AS attribute ON attribute.attrelid = class.oid AND attribute.attnum > 0
LEFT JOIN pg_constraint AS key ON key.conrelid = class.oid AND key.contype = 'p'
WHERE class.relnamespace = 'public'::regnamespace
    AND class.relkind IN ('r', 'p')
    AND NOT class.relispartition
    AND NOT attribute.attisdropped
    AND class.relname <> 'schema_migrations'
ORDER BY class.relname, attribute.attnum
"""


def tables_reference() -> str:
    """Every table, read from a private Postgres that is started for this and migrated.

    Raises:
        DownloadFailed: Postgres is not installed, and cannot be downloaded.
        StartFailed: Postgres does not start.
    """
    with _private_postgres() as database_url:
        return asyncio.run(migrated_tables(database_url))


async def migrated_tables(database_url: str) -> str:
    """The same, from an empty database, which this migrates."""
    database = Database(database_url, 1, "documents")
    await migrate(database)
    await database.close()
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(_COLUMNS)
    finally:
        await connection.close()
    return "\n".join(_section(list(columns)) for _, columns in groupby(rows, lambda row: row["table_name"]))


def _section(columns: Sequence[asyncpg.Record]) -> str:
    first = columns[0]
    comment = f"{first['table_comment']}.\n\n" if first["table_comment"] else ""
    rows = "\n".join(map(_row, columns))
    return f"## {first['table_name']}\n\n{comment}| column | type | meaning |\n| --- | --- | --- |\n{rows}\n"


def _row(column: asyncpg.Record) -> str:
    nullable = "" if column["required"] else ", or null"
    key = " (key)" if column["in_key"] else ""
    return f"| `{column['column_name']}`{key} | {column['type']}{nullable} | {column['comment']} |"


@contextmanager
def _private_postgres() -> Iterator[str]:
    """Yields its URL; the data is deleted at the end."""
    programs = installed_postgres() or downloaded_postgres(PACKAGES, print)
    with TemporaryDirectory() as folder:
        state = Path(folder)
        state.chmod(0o755)
        settings = PostgresSettings(
            folder=state / "postgres",
            log=state / "postgres.log",
            programs=programs,
            port=choose_ports(["postgres"], {})["postgres"],
            password="documents",
        )
        settings.log.touch()
        spawner = Spawner()
        node = PostgresNode(settings, spawner=spawner, durable=False)
        try:
            node.start()
            yield settings.url
        finally:
            node.stop()
            spawner.close()
