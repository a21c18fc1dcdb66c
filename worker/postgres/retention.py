"""Deletes old data: months of the event log, handled dead letters, their jobs, unhandled events."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import structlog

from worker.config.settings import Settings
from worker.observability.backoff import repeat_until_stopping
from worker.observability.errors import StockhookError, safe_summary
from worker.postgres.locks import TRY_LOCK, UNLOCK, AdvisoryLock
from worker.postgres.pool import Connection, Database

log = structlog.get_logger(__name__)

EVERY_SECONDS = 24 * 3600.0

# Other transactions wait for our lock at most this long; then we retry.
LOCK_TIMEOUT = "SET LOCAL lock_timeout = '300ms'"
LOCK_TRIES = 40

# Small enough not to delay other writers.
BATCH = 1_000

# A month's partition, its events applied before its upper bound; named as add_event_log_months does.
OLD_MONTHS = """
SELECT relname AS name, upper AS applied_before, pg_total_relation_size(oid) AS bytes
FROM pg_class
JOIN pg_inherits ON inhrelid = oid
CROSS JOIN LATERAL (
    SELECT (to_date(right(relname, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC' AS upper
) AS month
WHERE inhparent = to_regclass('event_log') AND relname ~ '^event_log_[0-9]{4}_[0-9]{2}$' AND upper <= $1
ORDER BY relname
"""

# CONCURRENTLY is refused where there is a default partition. This takes but a moment, once it has the lock.
DETACH = "ALTER TABLE event_log DETACH PARTITION {name}"

# A table that a person detached for an archive keeps its name, and is not dropped.
RENAME = "ALTER TABLE {name} RENAME TO {name}_dropping"

LEFT_OVER = """
SELECT relname AS name
FROM pg_class
WHERE relname ~ '^event_log_[0-9]{4}_[0-9]{2}_dropping$' AND relkind = 'r' AND pg_table_is_visible(oid)
"""

DROP = "DROP TABLE {name}"

NOTE_DROPPED = """
INSERT INTO event_log_dropped (name, applied_before)
VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE
SET applied_before = greatest(event_log_dropped.applied_before, excluded.applied_before),
    dropped_at = excluded.dropped_at
"""

COUNT_OLD_REST = "SELECT count(*) FROM event_log_rest WHERE applied_at < $1"

DELETE_OLD_REST = """
DELETE FROM event_log_rest
WHERE ctid = ANY(ARRAY(SELECT ctid FROM event_log_rest WHERE applied_at < $1 LIMIT $2))
"""

# Only handled letters: a letter that waits is never deleted.
OLD_LETTERS = """
SELECT dead_letter_id
FROM dead_letters AS letter
WHERE arrived_at < $1 AND state IN ('replayed', 'discarded')
    AND NOT EXISTS (SELECT FROM dead_letters AS later WHERE later.replay_of = letter.dead_letter_id)
ORDER BY dead_letter_id
LIMIT $2
"""

COUNT_OLD_UNHANDLED = "SELECT count(*) FROM unhandled_events WHERE stored_at < $1"

DELETE_OLD_UNHANDLED = """
DELETE FROM unhandled_events
WHERE unhandled_event_id = ANY(
    ARRAY(SELECT unhandled_event_id FROM unhandled_events WHERE stored_at < $1 LIMIT $2)
)
"""

# Only jobs that ended.
COUNT_OLD_JOBS = "SELECT count(*) FROM bulk_jobs WHERE ended_at < $1"

DELETE_OLD_JOBS = """
DELETE FROM bulk_jobs
WHERE job_id = ANY(ARRAY(SELECT job_id FROM bulk_jobs WHERE ended_at < $1 LIMIT $2))
"""

DELETE_LETTER_AUDIT = "DELETE FROM dead_letter_audit WHERE dead_letter_id = ANY($1::bigint[])"
DELETE_LETTERS = "DELETE FROM dead_letters WHERE dead_letter_id = ANY($1::bigint[])"


class LogBusy(StockhookError):
    """The log stayed locked in all tries."""


@dataclass(frozen=True, slots=True)
class Month:
    """A partition of the log."""

    name: str
    applied_before: datetime
    bytes: int


@dataclass(frozen=True, slots=True)
class Retained:
    """What was deleted, or would be deleted in a dry run."""

    months: tuple[Month, ...]
    events_without_month: int
    dead_letters: int
    unhandled_events: int
    bulk_jobs: int
    dry_run: bool


async def retain(
    database: Database, settings: Settings, now: datetime, *, dry_run: bool = False
) -> Retained | None:
    """Delete data that is past its days; None if another process is doing so.

    Raises:
        LogBusy
        DatabaseUnavailable
    """
    async with database.connection() as connection:
        if not await connection.fetchval(TRY_LOCK, AdvisoryLock.RETENTION):
            return None
        try:
            months: Sequence[Month] = ()
            rest = letters = jobs = unhandled = 0
            # First the rows that every consumer may delete: a role that owns no tables fails after that.
            if settings.unhandled_days:
                before = now - timedelta(days=settings.unhandled_days)
                unhandled = await _unhandled(connection, before, dry_run=dry_run)
            if settings.event_log_days:
                before = now - timedelta(days=settings.event_log_days)
                months = [Month(**row) for row in await connection.fetch(OLD_MONTHS, before)]
                rest = await _rest(connection, before, dry_run=dry_run)
                if not dry_run:
                    await _drop_months(connection, months)
            if settings.dead_letter_days:
                before = now - timedelta(days=settings.dead_letter_days)
                letters = await _letters(connection, before, dry_run=dry_run)
                jobs = await _jobs(connection, before, dry_run=dry_run)
        finally:
            await connection.execute(UNLOCK, AdvisoryLock.RETENTION)
    return Retained(tuple(months), rest, letters, unhandled, jobs, dry_run)


async def _drop_months(connection: Connection, months: Sequence[Month]) -> None:
    for month in months:
        await _detach(connection, month)
    for row in await connection.fetch(LEFT_OVER):
        await connection.execute(DROP.format(name=row["name"]), timeout=None)


async def _detach(connection: Connection, month: Month) -> None:
    """Detach a month from the log, without long locks."""
    for _ in range(LOCK_TRIES):
        try:
            async with connection.transaction():
                await connection.execute(LOCK_TIMEOUT)
                await connection.execute(DETACH.format(name=month.name))
                await connection.execute(RENAME.format(name=month.name))
                await connection.execute(NOTE_DROPPED, month.name, month.applied_before)
            return
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            await asyncio.sleep(0.5)
    raise LogBusy(f"{month.name} is in use: a transaction that reads the log has been open for long")


async def _rest(connection: Connection, before: datetime, *, dry_run: bool) -> int:
    """Delete old events that have no month. Normally there are none."""
    if dry_run:
        return int(await connection.fetchval(COUNT_OLD_REST, before))
    deleted = 0
    while count := int((await connection.execute(DELETE_OLD_REST, before, BATCH)).rsplit(" ", 1)[1]):
        deleted += count
    if deleted:
        await connection.execute(NOTE_DROPPED, "event_log_rest", before)
    return deleted


async def _unhandled(connection: Connection, before: datetime, *, dry_run: bool) -> int:
    if dry_run:
        return int(await connection.fetchval(COUNT_OLD_UNHANDLED, before))
    deleted = 0
    while count := int((await connection.execute(DELETE_OLD_UNHANDLED, before, BATCH)).rsplit(" ", 1)[1]):
        deleted += count
    return deleted


async def _letters(connection: Connection, before: datetime, *, dry_run: bool) -> int:
    if await connection.fetchval("SELECT to_regclass('dead_letters')") is None:
        return 0
    if dry_run:
        return len(await connection.fetch(OLD_LETTERS, before, None))
    deleted = 0
    while rows := await connection.fetch(OLD_LETTERS, before, BATCH):
        ids = [row["dead_letter_id"] for row in rows]
        async with connection.transaction():
            await connection.execute(DELETE_LETTER_AUDIT, ids)
            await connection.execute(DELETE_LETTERS, ids)
        deleted += len(ids)
    return deleted


async def _jobs(connection: Connection, before: datetime, *, dry_run: bool) -> int:
    if await connection.fetchval("SELECT to_regclass('bulk_jobs')") is None:
        return 0
    if dry_run:
        return int(await connection.fetchval(COUNT_OLD_JOBS, before))
    deleted = 0
    while count := int((await connection.execute(DELETE_OLD_JOBS, before, BATCH)).rsplit(" ", 1)[1]):
        deleted += count
    return deleted


async def retain_regularly(database: Database, settings: Settings, stopping: asyncio.Event) -> None:
    """Delete data that is past its days once a day, until shutdown."""

    async def delete_old_data() -> None:
        retained = await retain(database, settings, datetime.now(UTC))
        if retained is None:
            log.info("retention.skipped", reason="another process is deleting old data")
        elif any(
            (
                retained.months,
                retained.events_without_month,
                retained.dead_letters,
                retained.unhandled_events,
                retained.bulk_jobs,
            )
        ):
            log.info(
                "retention.dropped",
                months=[month.name for month in retained.months],
                events_without_month=retained.events_without_month,
                dead_letters=retained.dead_letters,
                unhandled_events=retained.unhandled_events,
                bulk_jobs=retained.bulk_jobs,
            )

    def warn(error: Exception) -> None:
        log.warning("retention.failed", error=safe_summary(error))

    await repeat_until_stopping(delete_old_data, EVERY_SECONDS, stopping, warn)
