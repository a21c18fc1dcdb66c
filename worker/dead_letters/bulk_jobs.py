"""Bulk jobs: the table `bulk_jobs`. A process of the console makes them, and one of them executes each."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

import orjson

from consumers.family import Connection
from worker.dead_letters import search, store
from worker.dead_letters.search import Selection
from worker.dead_letters.store import State
from worker.observability.errors import StockhookError
from worker.postgres import operator_audit
from worker.postgres.locks import LOCK_NAME_IN_TRANSACTION, AdvisoryLockClass
from worker.postgres.pool import Database

# Of the lists in a tally: enough to see what is wrong with the letters.
MOST_LISTED = 100

_BESIDE_TALLY = """
job_id, kind, selection, last_id, matched, rate, who, reason, resumed_by, state, is_cancel_requested, total,
    position, under_way, note, starts, created_at, started_at, progress_at, ended_at
"""
_COLUMNS = f"{_BESIDE_TALLY}, tally"

MAKE = f"""
INSERT INTO bulk_jobs (kind, selection, last_id, matched, rate, who, reason)
VALUES ($1, $2::text::jsonb, $3, $4, $5, $6, $7)
RETURNING {_COLUMNS}
"""

# The same form of the same user, sent before.
MADE_BEFORE = f"""
SELECT {_COLUMNS}
FROM bulk_jobs
WHERE state IN ('queued', 'running') AND kind = $1 AND selection = $2::text::jsonb AND last_id = $3
    AND rate IS NOT DISTINCT FROM $4 AND who = $5 AND reason IS NOT DISTINCT FROM $6
ORDER BY job_id
LIMIT 1
"""

GET = f"SELECT {_COLUMNS} FROM bulk_jobs WHERE job_id = $1"

# Without what a tally lists, which is most of it: the list of jobs is read often.
NEWEST = f"""
SELECT {_BESIDE_TALLY}, tally - '{{outcomes,returned,unready}}'::text[] AS tally
FROM bulk_jobs
WHERE job_id < $1
ORDER BY job_id DESC
LIMIT $2
"""

# Also a job whose process ended. The caller holds the lock, so no process executes it.
TAKE = f"""
UPDATE bulk_jobs
SET state = 'running', starts = starts + 1, started_at = coalesce(started_at, now()), note = NULL
WHERE job_id = (
    SELECT job_id
    FROM bulk_jobs
    WHERE state IN ('queued', 'running') AND kind = ANY($1::text[])
    ORDER BY job_id
    LIMIT 1
    FOR UPDATE
)
RETURNING {_COLUMNS}
"""

IS_OPEN = """
SELECT EXISTS (SELECT FROM bulk_jobs WHERE state IN ('queued', 'running') AND kind = ANY($1::text[]))
"""

# The job that is executed before this one.
EARLIER = """
SELECT job_id
FROM bulk_jobs
WHERE state IN ('queued', 'running') AND (kind = 'dry_run') = ($2 = 'dry_run') AND job_id < $1
ORDER BY job_id DESC
LIMIT 1
"""

SET_TOTAL = "UPDATE bulk_jobs SET total = $2 WHERE job_id = $1 AND total IS NULL"

# A process that lost the job, which another one then took, changes nothing.
SAVE = """
UPDATE bulk_jobs
SET position = $3, tally = $4::text::jsonb, under_way = $5, progress_at = now()
WHERE job_id = $1 AND starts = $2 AND state = 'running'
RETURNING job_id
"""

CHECK = """
SELECT is_cancel_requested
FROM bulk_jobs
WHERE job_id = $1 AND starts = $2 AND state = 'running'
"""

END = """
UPDATE bulk_jobs
SET state = $3, note = $4, ended_at = now()
WHERE job_id = $1 AND starts = $2 AND state = 'running'
"""

NOTE = "UPDATE bulk_jobs SET note = $3 WHERE job_id = $1 AND starts = $2 AND state = 'running'"

# A queued job ends at once; a running one when its process sees it.
CANCEL = """
UPDATE bulk_jobs
SET is_cancel_requested = true,
    state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END,
    ended_at = CASE state WHEN 'queued' THEN now() END
WHERE job_id = $1 AND state IN ('queued', 'running') AND NOT is_cancel_requested
RETURNING job_id
"""

RESUME = """
UPDATE bulk_jobs
SET state = 'queued', is_cancel_requested = false, resumed_by = $2, note = NULL, ended_at = NULL
WHERE job_id = $1 AND state IN ('cancelled', 'stopped', 'failed')
RETURNING job_id
"""


class NoSuchJob(StockhookError):
    """The text says which."""


class JobRefused(StockhookError):
    """The job cannot be made, cancelled or resumed. The text says why."""


class JobLost(StockhookError):
    """Another process has taken the job, because this one lost its connection to the database."""


class Kind(StrEnum):
    DRY_RUN = "dry_run"
    REPLAY = "replay"
    DISCARD = "discard"


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    STOPPED = "stopped"
    FAILED = "failed"


OPEN = (JobState.QUEUED, JobState.RUNNING)
RESUMABLE = (JobState.CANCELLED, JobState.STOPPED, JobState.FAILED)

# The letters that a job of a kind can take. A replay that was interrupted is repeated.
STATES = {
    Kind.DRY_RUN: (State.WAITING, State.REPLAYING),
    Kind.REPLAY: (State.WAITING, State.REPLAYING),
    Kind.DISCARD: (State.WAITING,),
}


@dataclass(frozen=True, slots=True)
class Job:
    """A row of `bulk_jobs`."""

    job_id: int
    kind: Kind
    selection: Selection
    last_id: int
    matched: int
    rate: float | None
    who: str
    reason: str | None
    resumed_by: str | None
    state: JobState
    is_cancel_requested: bool
    total: int | None
    position: int
    tally: Mapping[str, Any]
    under_way: tuple[int, ...]
    note: str | None
    starts: int
    created_at: datetime
    started_at: datetime | None
    progress_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, row: Any) -> Self:
        values = {field.name: row[field.name] for field in fields(cls)}
        kind = Kind(values["kind"])
        selection = selection_of(orjson.loads(values["selection"]))
        return cls(
            **values
            | {
                "kind": kind,
                "selection": replace(selection, states=STATES[kind], last_id=values["last_id"]),
                "state": JobState(values["state"]),
                "tally": orjson.loads(values["tally"]),
                "under_way": tuple(values["under_way"]),
            }
        )

    @property
    def actor(self) -> str:
        """In whose name the job works now."""
        return self.resumed_by or self.who

    @property
    def audit_reason(self) -> str:
        return f"job {self.job_id}: {self.reason}" if self.reason else f"job {self.job_id}"


def criteria_of(selection: Selection) -> dict[str, Any]:
    """A selection as JSON, without its states and its limit, which the job has."""
    values = asdict(selection) | {"states": None, "last_id": None}
    return {name: value for name, value in values.items() if value is not None}


def selection_of(criteria: Mapping[str, Any]) -> Selection:
    """The inverse of `criteria_of`."""
    values = dict(criteria)
    for name in ("since", "until"):
        if name in values:
            values[name] = datetime.fromisoformat(values[name])
    if "ids" in values:
        values["ids"] = tuple(values["ids"])
    return Selection(**values)


async def make(
    database: Database,
    kind: Kind,
    selection: Selection,
    *,
    who: str,
    reason: str | None,
    rate: float | None = None,
    last_id: int | None = None,
) -> Job:
    """A queued job for the letters that exist, or that existed when `last_id` was the highest id.

    A form that a user sends twice makes one job: a second one would take what a cancel of the first leaves.

    Raises:
        JobRefused: No letter matches.
    """
    async with search.searching(database) as connection:
        newest = await store.last_id(connection)
        last_id = newest if last_id is None else min(last_id, newest)
        selection = replace(selection, states=STATES[kind], last_id=last_id)
        matched = await search.count(connection, selection)
        if not matched:
            raise JobRefused("No dead letter that waits matches any more. Nothing was started.")
        criteria = orjson.dumps(criteria_of(selection)).decode()
        await connection.execute(LOCK_NAME_IN_TRANSACTION, AdvisoryLockClass.BULK_JOBS_OF_USER, who)
        made = await connection.fetch(MADE_BEFORE, kind.value, criteria, last_id, rate, who, reason)
        if made:
            return Job.of(made[0])
        [row] = await connection.fetch(MAKE, kind.value, criteria, last_id, matched, rate, who, reason)
        job = Job.of(row)
        await operator_audit.record(
            connection, who, "job.started", f"job {job.job_id}", f"{kind}: {reason or '-'}"
        )
        return job


async def get(database: Database, job_id: int) -> Job:
    """Raises: NoSuchJob."""
    async with database.connection() as connection:
        rows = await connection.fetch(GET, job_id)
    if not rows:
        raise NoSuchJob(f"There is no job {job_id}.")
    return Job.of(rows[0])


async def newest(connection: Connection, *, before: int, limit: int) -> list[Job]:
    """The newest first, from the one that precedes `before`; their tallies have numbers alone."""
    return [Job.of(row) for row in await connection.fetch(NEWEST, before, limit)]


async def earlier(connection: Connection, job: Job) -> int | None:
    """The job for whose end a queued job waits."""
    rows = await connection.fetch(EARLIER, job.job_id, job.kind.value)
    return rows[0]["job_id"] if rows else None


async def cancel(database: Database, job_id: int, who: str, reason: str | None) -> None:
    """Raises: NoSuchJob, JobRefused."""
    async with database.transaction() as connection:
        if await connection.fetch(CANCEL, job_id):
            await operator_audit.record(connection, who, "job.cancelled", f"job {job_id}", reason)
            return
    job = await get(database, job_id)
    is_requested = job.state in OPEN
    raise JobRefused(f"Job {job_id} is {'being cancelled' if is_requested else job.state} already.")


async def resume(database: Database, job_id: int, who: str, reason: str | None) -> None:
    """Raises: NoSuchJob, JobRefused."""
    async with database.transaction() as connection:
        if await connection.fetch(RESUME, job_id, who):
            await operator_audit.record(connection, who, "job.resumed", f"job {job_id}", reason)
            return
    job = await get(database, job_id)
    raise JobRefused(f"Job {job_id} is {job.state}: only a job that ended early can be resumed.")
