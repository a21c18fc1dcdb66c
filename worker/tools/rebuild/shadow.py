"""The shadow of a family's tables: a schema of its own, to which the events of the log are applied."""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import consumers
import schemas
from consumers.effects import apply_events
from consumers.family import Event
from consumers.logged import read_logged
from consumers.registry import FAMILIES
from worker.observability.errors import StockhookError
from worker.postgres import findings
from worker.postgres.pool import Connection
from worker.tools.rebuild.tables import ROWS

# Sequence numbers per transaction, of all families; events per batch.
WINDOW = 5_000
BATCH = 1_000

# None of our transactions writes to the log for longer.
LONGEST_WRITE_SECONDS = 60.0

# Names of schemas and tables cannot be parameters; these come from `Family.tables` and from the catalog.
CREATE_SCHEMA = "CREATE SCHEMA {shadow}"

# Not written to the WAL: after a crash of Postgres the tables and the progress are empty, and the rebuild
# starts again.
CREATE_TABLE = "CREATE UNLOGGED TABLE {shadow}.{table} (LIKE {live}.{table} INCLUDING ALL)"

# A batch sees only events up to its own last one, as it did when they were applied live.
CREATE_LOG = """
CREATE VIEW {shadow}.event_log AS
SELECT *
FROM {live}.event_log
WHERE seq <= coalesce(nullif(current_setting('stockhook.rebuilt_to', true), ''), '0')::bigint
"""

CREATE_PROGRESS = """
CREATE UNLOGGED TABLE {shadow}.progress AS
SELECT 0::bigint AS done_to, 0::bigint AS events, $1::text AS code
"""

READ_PROGRESS = "SELECT done_to, events, code FROM {shadow}.progress"

WRITE_PROGRESS = "UPDATE {shadow}.progress SET done_to = $1, events = $2"

DROP_SCHEMA = "DROP SCHEMA IF EXISTS {shadow} CASCADE"

READ_EVENTS = """
SELECT seq, coalesce(reuse_of, event_id) AS event_id, provider, entity_id, received_at, body
FROM {live}.event_log
WHERE seq > $1 AND seq <= $2 AND family = $3
ORDER BY seq
"""

# Entities whose events may have been received earlier than when the shadow read them.
DOUBTFUL = """
SELECT DISTINCT entity_id
FROM {live}.findings
WHERE family = $1 AND kind = 'implausible_timestamp' AND entity_id = ANY($2::text[])
"""

DELETE_ENTITIES = "DELETE FROM {shadow}.{table} WHERE {entity} = ANY($1::text[])"

READ_EVENTS_OF = """
SELECT seq, coalesce(reuse_of, event_id) AS event_id, provider, entity_id, received_at, body
FROM {live}.event_log
WHERE entity_id = ANY($1::text[]) AND family = $2
ORDER BY seq
"""

LAST_SEQ = "SELECT last_value FROM {live}.event_log_seq"

# A writer to the log holds this lock from before it takes a number until its commit.
WRITERS = """
SELECT DISTINCT virtualtransaction
FROM pg_locks
WHERE locktype = 'relation'
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND relation = to_regclass($1)
    AND mode = 'RowExclusiveLock'
    AND virtualtransaction <> (
        SELECT virtualtransaction FROM pg_locks WHERE pid = pg_backend_pid() LIMIT 1
    )
"""

SUMMARIZE = """
SELECT brin_summarize_new_values(indexrelid)
FROM pg_index
JOIN pg_inherits ON inhrelid = indexrelid
WHERE inhparent = to_regclass($1)
"""


class RebuildFailed(StockhookError):
    """The rebuild cannot continue. The text says why."""


@dataclass(slots=True)
class Shadow:
    """`done_to`: the shadow holds every event that was logged up to this number, and no later one."""

    connection: Connection
    family: str
    live: str
    done_to: int
    events: int
    tolerance: timedelta

    @property
    def schema(self) -> str:
        return f"rebuild_{self.family}"

    def named(self, statement: str, **names: str) -> str:
        return statement.format(shadow=self.schema, live=self.live, **names)

    async def advance(self, report: Callable[[int, int], None]) -> None:
        """Apply logged events, one transaction per window, until less than one window is left."""
        while True:
            horizon = await self._horizon()
            report(self.done_to, horizon)
            is_last = horizon - self.done_to < WINDOW
            while self.done_to < horizon:
                await self._advance_to(min(self.done_to + WINDOW, horizon))
                report(self.done_to, horizon)
            if is_last:
                return

    async def _advance_to(self, seq: int) -> None:
        async with self.connection.transaction():
            done = self.events + len(await self.apply(self.done_to, seq))
            await self.connection.execute(self.named(WRITE_PROGRESS), seq, done)
        self.done_to, self.events = seq, done

    async def apply(self, after: int, to: int) -> list[str]:
        """Apply the family's visible events with these numbers; return the entity id of each.

        Raises:
            RebuildFailed: The log holds an event that cannot be read any more.
        """
        rows = await self.connection.fetch(self.named(READ_EVENTS), after, to, self.family)
        for start in range(0, len(rows), BATCH):
            await self._apply_batch(rows[start : start + BATCH])
        return [row["entity_id"] for row in rows]

    async def reapply(self, entities: Collection[str]) -> list[str]:
        """Apply all events of those entities again for which an earlier reception can make a difference.

        A reception that was corrected after the shadow read its event is not logged again.
        """
        rows = await self.connection.fetch(self.named(DOUBTFUL), self.family, sorted(entities))
        doubtful = [row["entity_id"] for row in rows]
        if doubtful:
            for rows_of_family in ROWS[self.family]:
                table = rows_of_family.table
                delete = self.named(DELETE_ENTITIES, table=table.name, entity=table.entity)
                await self.connection.execute(delete, doubtful)
            rows = await self.connection.fetch(self.named(READ_EVENTS_OF), doubtful, self.family)
            for start in range(0, len(rows), BATCH):
                await self._apply_batch(rows[start : start + BATCH])
        return doubtful

    async def _apply_batch(self, rows: Sequence[Any]) -> None:
        last = str(rows[-1]["seq"])
        await self.connection.execute("SELECT set_config('stockhook.rebuilt_to', $1, true)", last)
        effects = await apply_events(
            FAMILIES[self.family], self.connection, [_event(row, self.tolerance) for row in rows]
        )
        await findings.note(self.connection, self.family, effects)

    async def _horizon(self) -> int:
        """A number up to which no more events will be logged. Waits for transactions that may do so.

        Raises:
            RebuildFailed: A transaction that writes to the log stays open.
        """
        last = await self.connection.fetchval(self.named(LAST_SEQ))
        log = f"{self.live}.event_log"
        writing = {row[0] for row in await self.connection.fetch(WRITERS, log)}
        end = monotonic() + LONGEST_WRITE_SECONDS
        while writing:
            await asyncio.sleep(0.02)
            writing &= {row[0] for row in await self.connection.fetch(WRITERS, log)}
            if monotonic() > end:
                raise RebuildFailed(
                    f"a transaction that writes to event_log has been open for {LONGEST_WRITE_SECONDS:.0f} s"
                )
        return int(last)


def _event(row: Any, tolerance: timedelta) -> Event[Any]:
    event = read_logged(row, tolerance)
    if event is None:
        raise RebuildFailed(
            f"event {row['event_id']} in event_log (entity {row['entity_id']}) cannot be read by this "
            "release: without it the rebuilt rows would be incomplete"
        )
    return event


async def open_shadow(connection: Connection, family: str, tolerance: timedelta, *, restart: bool) -> Shadow:
    """The shadow of an interrupted rebuild, if the same code and tolerance made it, or else a new one.

    From now on, unqualified names on this connection mean the shadow's tables.
    """
    live = await connection.fetchval("SELECT current_schema()")
    shadow = Shadow(connection, family, live, 0, 0, tolerance)
    await connection.execute(f"SET search_path = {shadow.schema}, {live}")
    code = fingerprint(tolerance)
    left = None
    if await connection.fetchval("SELECT to_regclass($1)", f"{shadow.schema}.progress") is not None:
        left = await connection.fetchrow(shadow.named(READ_PROGRESS))
    if left is not None and left["code"] == code and not restart:
        shadow.done_to, shadow.events = left["done_to"], left["events"]
    else:
        await _create(shadow, code)
    await connection.fetch(SUMMARIZE, f"{live}.event_log_by_seq")
    return shadow


async def _create(shadow: Shadow, code: str) -> None:
    async with shadow.connection.transaction():
        await drop(shadow)
        await shadow.connection.execute(shadow.named(CREATE_SCHEMA))
        for rows in ROWS[shadow.family]:
            await shadow.connection.execute(shadow.named(CREATE_TABLE, table=rows.table.name))
        await shadow.connection.execute(shadow.named(CREATE_LOG))
        await shadow.connection.execute(shadow.named(CREATE_PROGRESS).replace("$1", f"'{code}'"))


async def drop(shadow: Shadow) -> None:
    await shadow.connection.execute(shadow.named(DROP_SCHEMA))


def fingerprint(tolerance: timedelta) -> str:
    """A hash of the code and the tolerance that lead to the rows: only the same ones may resume a rebuild."""
    folders = [Path(package.__file__ or "").parent for package in (consumers, schemas)]
    sources = sorted(path for folder in folders for path in folder.rglob("*.py"))
    parts = [str(tolerance).encode(), *(path.read_bytes() for path in sources)]
    return hashlib.sha256(b"".join(parts)).hexdigest()
