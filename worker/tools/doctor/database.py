"""Checks of the database: its version and settings, its tables, its clock."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

from cryptography.fernet import InvalidToken, MultiFernet

from consumers.registry import FAMILIES
from worker.config.check import (
    CheckResult,
    clock_difference,
    error,
    ok,
    unchecked,
    warning,
)
from worker.config.connections import CONNECTIONS
from worker.config.database_url import DatabaseUrl
from worker.config.settings import Settings
from worker.observability.errors import safe_summary
from worker.postgres import pauses
from worker.postgres.errors import InsufficientPrivilegeError, PostgresError
from worker.postgres.failures import POOL_BY_SESSION, DatabaseUnavailable, SessionsShared
from worker.postgres.migrations import pending
from worker.postgres.pool import Connection, Database

OLDEST = 150_000

# One connection per family, and some for all of them.
POOL = len(FAMILIES) + CONNECTIONS

READ_SETTINGS = """
SELECT name, setting
FROM pg_settings
WHERE name IN ('server_version', 'server_version_num', 'fsync', 'synchronous_commit', 'full_page_writes',
               'max_connections', 'superuser_reserved_connections', 'server_encoding', 'shared_buffers',
               'default_transaction_read_only')
"""
SESSION_SETTINGS = "SELECT name, setting FROM pg_settings WHERE name = ANY($1::text[])"
IN_RECOVERY = "SELECT pg_is_in_recovery()"
NOW = "SELECT clock_timestamp()"

# Privileges on the log do not include its partitions: only the owner reads one directly.
MAY_READ_REST = "SELECT has_table_privilege('event_log_rest', 'SELECT')"
STRAY_EVENTS = "SELECT EXISTS (SELECT FROM event_log_rest)"
MONTH_AHEAD = """
SELECT to_regclass('event_log_' || to_char((now() AT TIME ZONE 'UTC') + interval '1 month', 'YYYY_MM'))
    IS NOT NULL
"""
# One encrypted value of each column that has any.
ENCRYPTED_VALUES = "\nUNION ALL\n".join(
    f"(SELECT {column} AS token FROM {table.name} WHERE {column} IS NOT NULL LIMIT 1)"
    for family in FAMILIES.values()
    for table in family.tables
    for column in table.encrypted
)

IMPLAUSIBLE = """
SELECT count(*) AS events, max(noted_at) AS last_at
FROM findings
WHERE kind = 'implausible_timestamp' AND noted_at > now() - interval '7 days'
"""


async def check_database(database: Database, encryptor: MultiFernet | None) -> AsyncIterator[CheckResult]:
    """Raises: DatabaseUnavailable."""
    async with database.connection() as connection:
        rows = await connection.fetch(READ_SETTINGS)
        for finding in check_settings({row["name"]: row["setting"] for row in rows}):
            yield finding
        if await connection.fetchval(IN_RECOVERY):
            yield error("database", "it is a standby: nothing can be written", "use the primary's address")
        theirs = await connection.fetchval(NOW)
        yield clock_difference("the database's clock", (theirs - datetime.now(UTC)).total_seconds())
    yield await check_session(database)
    missing = await pending(database)
    if missing:
        names = ", ".join(migration.name for migration in missing)
        yield error("migrations", f"missing: {names}", "run `stockhook migrate`")
        return
    yield ok("migrations", "all are applied")
    async with database.connection() as connection:
        async for finding in _check_tables(connection, encryptor):
            yield finding


async def check_session(database: Database) -> CheckResult:
    """Whether a session has the requested settings, and still has them in a later transaction.

    Raises:
        DatabaseUnavailable
    """
    requested = database.session_settings
    async with database.connection() as connection:
        rows = await connection.fetch(SESSION_SETTINGS, list(requested))
    actual = {row["name"]: row["setting"] for row in rows}
    different = [
        f"{name} is {actual.get(name)}, not {value}"
        for name, value in requested.items()
        if actual.get(name) != value
    ]
    if different:
        what = f"it does not have the requested settings: {'; '.join(different)}"
        return error("session", what, f"if a pooler is in between, {POOL_BY_SESSION}")
    return ok("session", "it has the requested settings")


def check_url(url: DatabaseUrl) -> Iterator[CheckResult]:
    for name, reason in url.ignored.items():
        yield warning("database URL", f"{name} is ignored: {reason}", f"leave {name} out")


def check_settings(settings: dict[str, str]) -> Iterator[CheckResult]:
    version = settings["server_version"].split()[0]
    if int(settings["server_version_num"]) < OLDEST:
        yield error("database version", f"Postgres {version} is too old", "use 15 or newer")
    else:
        yield ok("database version", f"Postgres {version}")
    unsafe = [name for name in ("fsync", "full_page_writes") if settings[name] == "off"]
    for name in unsafe:
        yield error(
            "durability",
            f"{name} is off: a crash loses what was acknowledged to the broker",
            f"set {name} = on",
        )
    # Each session sets it, whatever the server's default is.
    has_synchronous_commits = settings["synchronous_commit"] in ("on", "remote_apply")
    if not has_synchronous_commits:
        yield error(
            "durability",
            f"synchronous_commit is {settings['synchronous_commit']} in a session that set it to on",
            f"if a pooler is in between, {POOL_BY_SESSION}",
        )
    if not unsafe and has_synchronous_commits:
        yield ok("durability", "fsync and full_page_writes are on; each session sets synchronous_commit")
    if settings["server_encoding"] != "UTF8":
        yield error("encoding", f"the database is in {settings['server_encoding']}", "create it with UTF8")
    if settings["default_transaction_read_only"] == "on":
        yield error("database", "it is read-only for this user", "see default_transaction_read_only")
    yield _check_connections(
        int(settings["max_connections"]) - int(settings["superuser_reserved_connections"])
    )
    megabytes = int(settings["shared_buffers"]) * 8 / 1024
    hint = ", the default: a quarter of the memory is usual" if megabytes <= 128 else ""
    yield ok("memory", f"shared_buffers is {megabytes:.0f} MB{hint}")


def _check_connections(available: int) -> CheckResult:
    available_text = f"{available} connections, of which a consumer of all families uses up to {POOL}"
    remedy = "raise max_connections, or use a pooler that pools by session"
    if available < POOL:
        return error("connections", available_text, remedy)
    if available < 2 * POOL:
        return warning(
            "connections", f"{available_text}: too few while a new consumer replaces the old one", remedy
        )
    return ok("connections", available_text)


async def _check_tables(connection: Connection, encryptor: MultiFernet | None) -> AsyncIterator[CheckResult]:
    try:
        if not await connection.fetchval(MAY_READ_REST):
            yield unchecked(
                "event log",
                "this role may not read event_log_rest, which contains events whose month had no partition",
                "run `stockhook doctor` as stockhook_owner",
            )
        elif await connection.fetchval(STRAY_EVENTS):
            yield warning(
                "event log",
                "event_log_rest contains events: their month had no partition when they were applied",
                "move them into the partition of their month",
            )
        encrypted = [row["token"] for row in await connection.fetch(ENCRYPTED_VALUES)]
        is_ahead = await connection.fetchval(MONTH_AHEAD)
        [implausible] = await connection.fetch(IMPLAUSIBLE)
        paused = await pauses.read_all(connection)
    except InsufficientPrivilegeError as refusal:
        yield error(
            "permissions",
            f"this role may not read ({safe_summary(refusal)})",
            "run `stockhook migrate` as the owner",
        )
        return
    if is_ahead:
        yield ok("event log", "the next month has its partition")
    else:
        yield warning(
            "event log",
            "the next month has no partition",
            "start a consumer, which adds it; its log says event_log.months_failed if it cannot",
        )
    if implausible["events"]:
        yield warning(
            "timestamps",
            f"in 7 days, {implausible['events']:,} events had a timestamp later than their reception by more "
            f"than STOCKHOOK_CLOCK_TOLERANCE, the last at {implausible['last_at']:%Y-%m-%d %H:%M} UTC",
            "see the findings `implausible_timestamp` and `stockhook explain`; compare the clocks, contact "
            "the marketplace, and run `stockhook reconcile`",
        )
    else:
        yield ok("timestamps", "in 7 days no event had a timestamp later than its reception")
    for family, pause in paused.items():
        yield warning("pauses", f"{family} is {pause}", f"run `stockhook resume {family}`")
    if not paused:
        yield ok("pauses", "no family is paused")
    if encrypted:
        yield _check_encrypted(encrypted, encryptor)


def _check_encrypted(encrypted: list[str], encryptor: MultiFernet | None) -> CheckResult:
    if encryptor is None:
        return unchecked(
            "sealing keys",
            "private data is encrypted, and no key is set here",
            "correct for monitor and console; consumers need the ingest's keys",
        )
    try:
        for token in encrypted:
            encryptor.decrypt(token)
    except InvalidToken:
        return error(
            "sealing keys",
            "none of the keys decrypts the private data in the database",
            "add the older key after the newest one in STOCKHOOK_SEALING_KEYS",
        )
    return ok("sealing keys", "they decrypt the private data in the database")


async def check_reachable(settings: Settings) -> tuple[list[CheckResult], bool]:
    url = settings.database_url.get_secret_value()
    database = Database(url, 1, "stockhook/doctor")
    results = list(check_url(DatabaseUrl.read(url)))
    try:
        async for finding in check_database(database, settings.encryptor):
            results.append(finding)
    except DatabaseUnavailable as unavailable:
        remedy = "see STOCKHOOK_DATABASE_URL"
        return [*results, error("database", f"cannot be reached ({unavailable})", remedy)], False
    except SessionsShared as refusal:
        return [*results, error("session", str(refusal).partition(": ")[0], POOL_BY_SESSION)], True
    except PostgresError as failure:
        return [
            *results,
            error("database", f"failed ({safe_summary(failure)})", "see its log"),
        ], True
    finally:
        await database.close()
    return results, True
