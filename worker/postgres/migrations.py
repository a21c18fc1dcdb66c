"""Numbered SQL files in dbmate's format, applied in order under an advisory lock."""

import re
from dataclasses import dataclass
from pathlib import Path

import asyncpg

import schemas
from worker.observability.errors import StockhookError
from worker.observability.exit_codes import TEMPORARY
from worker.postgres.locks import LOCK, UNLOCK, AdvisoryLock
from worker.postgres.pool import Connection, Database

FOLDER = Path(schemas.__file__).parent / "migrations"

# An index on a large table takes long, and so may another deployment that migrates.
LONGEST_SECONDS = 24 * 3600

# dbmate's table: either tool can continue where the other one stopped.
CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version varchar(128) PRIMARY KEY
)
"""

APPLIED = "SELECT version FROM schema_migrations"

RECORD = "INSERT INTO schema_migrations (version) VALUES ($1)"

_SECTIONS = re.compile(
    r"^--\s*migrate:up(?P<options>[^\n]*)\n(?P<up>.*?)^--\s*migrate:down[^\n]*\n(?P<down>.*)", re.M | re.S
)


class MigrationRefused(StockhookError):
    """A migration found sessions of processes that must be stopped first. The text names them."""

    exit_code = TEMPORARY


@dataclass(frozen=True, slots=True)
class Migration:
    version: str
    name: str
    up: str
    down: str
    in_transaction: bool


def migrations(folder: Path = FOLDER) -> list[Migration]:
    """All migrations, the oldest first."""
    return [_read(path) for path in sorted(folder.glob("*.sql"))]


def _read(path: Path) -> Migration:
    sections = _SECTIONS.search(path.read_text())
    if sections is None:
        raise ValueError(f"{path.name} lacks '-- migrate:up' or '-- migrate:down'")
    version = path.name.partition("_")[0]
    return Migration(
        version=version,
        name=path.stem,
        up=sections["up"],
        down=sections["down"],
        in_transaction="transaction:false" not in sections["options"],
    )


async def pending(database: Database) -> list[Migration]:
    """The migrations that this database lacks.

    Raises:
        DatabaseUnavailable
    """
    async with database.connection() as connection:
        applied = await _applied(connection)
    return [migration for migration in migrations() if migration.version not in applied]


async def migrate(database: Database) -> list[Migration]:
    """Apply missing migrations, each file in its own transaction, and return them.

    Raises:
        DatabaseUnavailable
        MigrationRefused: The migrations before it are applied.
    """
    async with database.connection() as connection:
        await connection.execute("SET statement_timeout = 0")
        await connection.execute("SET lock_timeout = 0")
        await connection.execute(LOCK, AdvisoryLock.MIGRATIONS, timeout=LONGEST_SECONDS)
        try:
            await connection.execute(CREATE_TABLE)
            applied = await _applied(connection)
            missing = [migration for migration in migrations() if migration.version not in applied]
            for migration in missing:
                await _apply(connection, migration)
        except asyncpg.ObjectInUseError as error:
            raise MigrationRefused(str(error)) from error
        finally:
            await connection.execute(UNLOCK, AdvisoryLock.MIGRATIONS)
            await connection.execute("RESET statement_timeout")
            await connection.execute("RESET lock_timeout")
    return missing


async def _applied(connection: Connection) -> set[str]:
    try:
        return {row["version"] for row in await connection.fetch(APPLIED)}
    except asyncpg.UndefinedTableError:
        return set()


async def _apply(connection: Connection, migration: Migration) -> None:
    if not migration.in_transaction:
        await connection.execute(migration.up, timeout=LONGEST_SECONDS)
        await connection.execute(RECORD, migration.version)
        return
    async with connection.transaction():
        await connection.execute(migration.up, timeout=LONGEST_SECONDS)
        await connection.execute(RECORD, migration.version)
