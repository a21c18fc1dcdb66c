"""A rebuild from its beginning to the comparison, or to the take-over."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic

from schemas.clock import TOLERANCE
from worker.postgres.errors import LockNotAvailableError
from worker.postgres.locks import TRY_LOCK_NAME, AdvisoryLockClass
from worker.postgres.pool import Connection, Database
from worker.tools.rebuild.comparison import Difference, differences, repair_rows
from worker.tools.rebuild.shadow import (
    RebuildFailed,
    Shadow,
    drop,
    open_shadow,
)
from worker.tools.rebuild.tables import ROWS

# More than there ever are: everything that is visible.
EVERYTHING = 2**63 - 1

# One rebuild of a family at a time.

OTHER_ENDS_SECONDS = 5.0

# The seconds that consumers may be kept waiting for; they themselves give up later.
LOCK_TIMEOUT = "SET LOCAL lock_timeout = '3s'"

# Keeps writers out and lets readers in. A batch of the family locks rows of the first table before it
# writes anything but the log, so who has this lock has the family's findings and communications too.
LOCK_TABLES = "LOCK TABLE {tables} IN EXCLUSIVE MODE"

DROPPED = "SELECT max(applied_before) FROM event_log_dropped"


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild came to. `resumed_from` events had been applied by one that was broken off."""

    family: str
    events: int
    resumed_from: int
    seconds: float
    differences: tuple[Difference, ...]
    swapped: bool
    locked_seconds: float | None


async def rebuild(
    database: Database,
    family: str,
    *,
    swap: bool,
    restart: bool,
    report: Callable[[int, int], None],
    tolerance: timedelta = TOLERANCE,
) -> Rebuilt:
    """Build the family's projection beside the live one, compare, and have it take over if asked.

    Raises:
        RebuildFailed
        DatabaseUnavailable
    """
    began = monotonic()
    async with database.connection() as connection:
        await _lock_out_others(connection, family)
        await _refuse_cut_log(connection)
        await connection.execute("SET enable_seqscan = on")
        shadow = await open_shadow(connection, family, tolerance, restart=restart)
        resumed_from = shadow.events
        await shadow.advance(report)
        found = await _compared(shadow)
        locked = None
        if swap:
            found, locked = await _swap(shadow, found)
        elif not found:
            await drop(shadow)
    return Rebuilt(
        family=family,
        events=shadow.events,
        resumed_from=resumed_from,
        seconds=monotonic() - began,
        differences=tuple(found),
        swapped=swap,
        locked_seconds=locked,
    )


async def _lock_out_others(connection: Connection, family: str) -> None:
    """Postgres takes a moment to notice that a rebuild was killed."""
    end = monotonic() + OTHER_ENDS_SECONDS
    while not await connection.fetchval(TRY_LOCK_NAME, AdvisoryLockClass.REBUILD, family):
        if monotonic() > end:
            raise RebuildFailed(f"{family} is being rebuilt already")
        await asyncio.sleep(0.1)


async def _refuse_cut_log(connection: Connection) -> None:
    before = await connection.fetchval(DROPPED)
    if before is not None:
        raise RebuildFailed(
            f"events that were applied before {before:%Y-%m-%d} were dropped from the log: what they said "
            "cannot be rebuilt from what is left"
        )


async def _compared(shadow: Shadow) -> list[Difference]:
    """Compare as of one snapshot: in it, the live tables hold the effects of the log's events, no more.

    What was logged meanwhile is applied for the comparison and taken back: numbers come in late.
    """
    transaction = shadow.connection.transaction(isolation="repeatable_read")
    await transaction.start()
    try:
        await shadow.apply(shadow.done_to, EVERYTHING)
        found = await differences(shadow)
        doubtful = await shadow.apply_anew({difference.entity_id for difference in found})
        if not doubtful:
            return found
        sure = [difference for difference in found if difference.entity_id not in doubtful]
        return sure + await differences(shadow, doubtful)
    finally:
        await transaction.rollback()


async def _swap(shadow: Shadow, found: list[Difference]) -> tuple[list[Difference], float]:
    """Look again at what differed, and at what came since, with the family's writers kept out; repair it."""
    tables = ", ".join(f"{shadow.live}.{table.name}" for table in ROWS[shadow.family])
    async with shadow.connection.transaction():
        await shadow.connection.execute(LOCK_TIMEOUT)
        try:
            await shadow.connection.execute(LOCK_TABLES.format(tables=tables))
        except LockNotAvailableError:
            raise RebuildFailed("the tables are locked by somebody else: try again later") from None
        began = monotonic()
        recent = await shadow.apply(shadow.done_to, EVERYTHING)
        shadow.events += len(recent)
        entities = {*recent, *(difference.entity_id for difference in found)}
        await shadow.apply_anew(entities)
        differing = await differences(shadow, entities) if entities else []
        await repair_rows(shadow, differing)
        await drop(shadow)
    return differing, monotonic() - began
