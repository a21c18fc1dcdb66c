"""A rebuild from its start to the comparison, or to the repair of the live rows."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic

from consumers.registry import FAMILIES
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

# Greater than every sequence number: all visible events.
EVERYTHING = 2**63 - 1

# One rebuild of a family at a time. Postgres needs a moment to notice that another one was killed.
OTHER_ENDS_SECONDS = 5.0

# Consumers wait for at most this long; their own timeouts are longer.
LOCK_TIMEOUT = "SET LOCAL lock_timeout = '3s'"

# Blocks writers, not readers. A batch of the family locks rows of the first table before it writes anything
# but the log, so this lock also covers the family's findings and communications.
LOCK_TABLES = "LOCK TABLE {tables} IN EXCLUSIVE MODE"

DROPPED = "SELECT max(applied_before) FROM event_log_dropped"


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The result of a rebuild. An interrupted rebuild had already applied `resumed_from` events."""

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
    """Rebuild the family's rows beside the live ones and compare them; with `swap`, replace rows that differ.

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
        different = await _compared(shadow)
        locked = None
        if swap:
            different, locked = await _swap(shadow, different)
        elif not different:
            await drop(shadow)
    return Rebuilt(
        family=family,
        events=shadow.events,
        resumed_from=resumed_from,
        seconds=monotonic() - began,
        differences=tuple(different),
        swapped=swap,
        locked_seconds=locked,
    )


async def _lock_out_others(connection: Connection, family: str) -> None:
    end = monotonic() + OTHER_ENDS_SECONDS
    while not await connection.fetchval(TRY_LOCK_NAME, AdvisoryLockClass.REBUILD, family):
        if monotonic() > end:
            raise RebuildFailed(f"another rebuild of {family} is running")
        await asyncio.sleep(0.1)


async def _refuse_cut_log(connection: Connection) -> None:
    before = await connection.fetchval(DROPPED)
    if before is not None:
        raise RebuildFailed(
            f"events that were applied before {before:%Y-%m-%d} were dropped from event_log: "
            "rows that depend on them cannot be rebuilt"
        )


async def _compared(shadow: Shadow) -> list[Difference]:
    """Compare in one snapshot, in which the live tables hold exactly the effects of the log's events.

    Events that were logged meanwhile are applied for the comparison and rolled back, because transactions
    with smaller sequence numbers may commit later.
    """
    transaction = shadow.connection.transaction(isolation="repeatable_read")
    await transaction.start()
    try:
        await shadow.apply(shadow.done_to, EVERYTHING)
        different = await differences(shadow)
        doubtful = await shadow.reapply({difference.entity_id for difference in different})
        if not doubtful:
            return different
        sure = [difference for difference in different if difference.entity_id not in doubtful]
        return sure + await differences(shadow, doubtful)
    finally:
        await transaction.rollback()


async def _swap(shadow: Shadow, different: list[Difference]) -> tuple[list[Difference], float]:
    """Block the family's writers, compare again what differed and what was logged since, and repair it."""
    tables = ", ".join(f"{shadow.live}.{table.name}" for table in FAMILIES[shadow.family].tables)
    async with shadow.connection.transaction():
        await shadow.connection.execute(LOCK_TIMEOUT)
        try:
            await shadow.connection.execute(LOCK_TABLES.format(tables=tables))
        except LockNotAvailableError:
            raise RebuildFailed(f"another session has locked {tables}: try again later") from None
        began = monotonic()
        recent = await shadow.apply(shadow.done_to, EVERYTHING)
        shadow.events += len(recent)
        entities = {*recent, *(difference.entity_id for difference in different)}
        await shadow.reapply(entities)
        differing = await differences(shadow, entities) if entities else []
        await repair_rows(shadow, differing)
        await drop(shadow)
    return differing, monotonic() - began
