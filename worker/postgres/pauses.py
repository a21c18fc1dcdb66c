"""Families that a user paused: the table `paused_families`, and the record of it in `operator_audit`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from worker.observability.errors import StockhookError
from worker.postgres.operator_audit import record
from worker.postgres.pool import Connection, Database

# Readers, which are the consumers, do not wait for this lock.
LOCK_OUT_OTHER_WRITERS = "LOCK TABLE paused_families IN SHARE ROW EXCLUSIVE MODE"

# In the order of the key: sessions have enable_seqscan off, and every consumer process reads often.
ALL = """
SELECT family, paused_by, reason, paused_at AS since
FROM paused_families
ORDER BY family
"""

PAUSE = """
INSERT INTO paused_families (family, reason, paused_by)
VALUES ($1, $2, $3)
"""

RESUME = """
DELETE FROM paused_families
WHERE family = $1
"""


@dataclass(frozen=True, slots=True)
class Pause:
    """Who paused a family, why, and when."""

    paused_by: str
    reason: str
    since: datetime

    def __str__(self) -> str:
        return (
            f"paused by {self.paused_by} since {self.since.astimezone(UTC):%Y-%m-%d %H:%M} UTC: {self.reason}"
        )


class AlreadyPaused(StockhookError):
    """The family is paused, possibly by another user, whose pause stays. The text says by whom and why."""


async def read_all(connection: Connection) -> Mapping[str, Pause]:
    """The paused families."""
    rows = await connection.fetch(ALL)
    return {row["family"]: Pause(row["paused_by"], row["reason"], row["since"]) for row in rows}


async def pause(database: Database, family: str, reason: str, who: str) -> Pause:
    """Pause a family, which every consumer process obeys within 2 s.

    Raises:
        AlreadyPaused
    """
    async with database.transaction() as connection:
        await connection.execute(LOCK_OUT_OTHER_WRITERS)
        existing = (await read_all(connection)).get(family)
        if existing is not None:
            raise AlreadyPaused(f"{family} is already {existing}. Nothing was changed")
        await connection.execute(PAUSE, family, reason, who)
        await record(connection, who, "family.paused", family, reason)
        return (await read_all(connection))[family]


async def resume(database: Database, family: str, reason: str | None, who: str) -> Pause | None:
    """End the pause of a family, and return it; None if the family is not paused."""
    async with database.transaction() as connection:
        await connection.execute(LOCK_OUT_OTHER_WRITERS)
        ended = (await read_all(connection)).get(family)
        if ended is not None:
            await connection.execute(RESUME, family)
            await record(connection, who, "family.resumed", family, reason)
        return ended
