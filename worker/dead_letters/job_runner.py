"""Executes bulk jobs: one replay or discard at a time, and one dry run, in all processes together."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, assert_never

import orjson
import structlog

from consumers.family import Connection
from worker.amqp.connection import Broker
from worker.amqp.errors import BrokerUnavailable, Unroutable
from worker.config.settings import Settings
from worker.dead_letters import bulk_jobs, search, store
from worker.dead_letters.bulk_jobs import MOST_LISTED, Job, JobLost, JobState, Kind
from worker.dead_letters.dry_run import outcome_of
from worker.dead_letters.replay import AnotherRuns, Journal, Replay, Tally, exclusive
from worker.observability.backoff import repeat_until_stopping, sleep_unless_stopping
from worker.observability.errors import reason_of, safe_summary
from worker.observability.failpoints import failpoint
from worker.postgres.failures import DatabaseUnavailable, TransactionConflict
from worker.postgres.locks import AdvisoryLock
from worker.postgres.pool import Database

log = structlog.get_logger(__name__)

POLL_SECONDS = 1.0

# After an outage of the broker or the database.
RETRY_SECONDS = 3.0

# Letters per transaction. The bodies of those of a dry run are in memory.
DISCARDED_TOGETHER = 500
TRIED_TOGETHER = 25

# Different outcomes of a dry run, and the letters that are named for each.
MOST_OUTCOMES = 50
MOST_EXAMPLES = 20
FURTHER = "other outcomes"

# The job continues when it is over; the process, or another one, takes it again.
OUTAGES = (BrokerUnavailable, DatabaseUnavailable, TransactionConflict)

CONNECTIONS = 5


class _Cancelled(Exception):
    """A user cancelled the job."""


class _Stopping(Exception):
    """This process ends; the job stays."""


@dataclass(slots=True)
class JobRunner:
    """Takes queued jobs, and jobs whose process ended, while it has the lock for their kind."""

    broker: Broker
    database: Database
    settings: Settings
    stopping: asyncio.Event
    _last_failure: str = ""

    async def run(self) -> None:
        """Execute jobs until shutdown."""
        await asyncio.gather(
            self._run((Kind.REPLAY, Kind.DISCARD), AdvisoryLock.REPLAY),
            self._run((Kind.DRY_RUN,), AdvisoryLock.DRY_RUN),
        )

    async def _run(self, kinds: Sequence[Kind], lock: AdvisoryLock) -> None:
        async def execute_all() -> None:
            async with self.database.connection() as connection:
                if not await connection.fetchval(bulk_jobs.IS_OPEN, list(kinds)):
                    return
            try:
                async with exclusive(self.database, lock) as now:
                    while not self.stopping.is_set() and (job := await self._take(kinds)):
                        await self._execute(job, now)
            except AnotherRuns:
                return
            except OUTAGES as error:
                self._warn(error)
                await sleep_unless_stopping(RETRY_SECONDS, self.stopping)
                return
            self._last_failure = ""

        await repeat_until_stopping(execute_all, POLL_SECONDS, self.stopping, self._warn)

    def _warn(self, error: Exception) -> None:
        # It is repeated often: the same failure is logged once.
        reason = reason_of(error)
        if reason != self._last_failure:
            log.warning("job.interrupted", reason=reason)
        self._last_failure = reason

    async def _take(self, kinds: Sequence[Kind]) -> Job | None:
        async with self.database.connection() as connection:
            rows = await connection.fetch(bulk_jobs.TAKE, list(kinds))
        return Job.of(rows[0]) if rows else None

    async def _execute(self, job: Job, now: datetime) -> None:
        """Until it ends, or this process does.

        Raises:
            DatabaseUnavailable, BrokerUnavailable, TransactionConflict: It stays open.
            JobLost
        """
        log.info("job.taken", job=job.job_id, kind=job.kind, who=job.actor, starts=job.starts)
        journal = _JobJournal(job, self.stopping)
        state, note = JobState.DONE, None
        try:
            async with search.searching(self.database) as connection:
                await journal.check(connection)
                if job.total is None:
                    total = await search.count(connection, job.selection)
                    await connection.execute(bulk_jobs.SET_TOTAL, job.job_id, total)
            match job.kind:
                case Kind.REPLAY:
                    note = await self._replay(job, journal, now)
                    state = JobState.DONE if note is None else JobState.STOPPED
                case Kind.DISCARD:
                    await self._discard(job, journal)
                case Kind.DRY_RUN:
                    await self._try(job, journal)
                case unreachable:
                    assert_never(unreachable)
        except _Stopping:
            log.info("job.left", job=job.job_id)
            return
        except _Cancelled:
            state = JobState.CANCELLED
        except OUTAGES as error:
            await self._say(job, f"It waits: {error.sentence}")
            raise
        except JobLost:
            raise
        except Unroutable:
            state, note = JobState.FAILED, "A queue is missing: `stockhook topology` declares it."
        except Exception as error:
            log.exception("job.failed", job=job.job_id)
            state, note = JobState.FAILED, safe_summary(error)
        async with self.database.connection() as connection:
            await connection.execute(bulk_jobs.END, job.job_id, job.starts, state.value, note)
        log.info("job.ended", job=job.job_id, state=state, note=note)

    async def _say(self, job: Job, note: str) -> None:
        """Write down why the job waits, if the database can be reached."""
        try:
            async with self.database.connection() as connection:
                await connection.execute(bulk_jobs.NOTE, job.job_id, job.starts, note)
        except OUTAGES as error:
            log.debug("job.note_lost", job=job.job_id, reason=error.sentence)

    async def _replay(self, job: Job, journal: "_JobJournal", now: datetime) -> str | None:
        """Why it stopped before all letters were replayed, if it did."""
        assert job.rate is not None, "the table has it for a replay"
        assert job.started_at is not None, "it runs"
        run = Replay(
            self.broker,
            self.database,
            self.settings.encryptor,
            self.settings.delays,
            rate=job.rate,
            who=job.actor,
            reason=job.audit_reason,
            tally=_tally(job),
            journal=journal,
            under_way=dict.fromkeys(job.under_way, job.started_at),
            position=job.position,
        )
        # What this process replays may come back from now on.
        return (await run.run_exclusively(job.selection, now)).stopped

    async def _discard(self, job: Job, journal: "_JobJournal") -> None:
        discarded, position = int(job.tally.get("discarded", 0)), job.position
        while True:
            async with search.searching(self.database) as connection:
                await journal.check(connection)
                ids = await search.ids(connection, job.selection, after=position, limit=DISCARDED_TOGETHER)
                if not ids:
                    return
                done = await store.discard(connection, ids, job.actor, job.audit_reason)
                discarded, position = discarded + len(done), ids[-1]
                await journal.write(connection, {"discarded": discarded}, (), position)
            failpoint("letters_discarded")

    async def _try(self, job: Job, journal: "_JobJournal") -> None:
        outcomes = Outcomes(dict(job.tally.get("outcomes", {})))
        position = job.position
        while True:
            async with search.searching(self.database) as connection:
                letters = await search.select(connection, job.selection, after=position, limit=TRIED_TOGETHER)
            if not letters:
                return
            for letter in letters:
                async with self.database.connection() as connection:
                    await journal.check(connection)
                outcomes.add(
                    letter.dead_letter_id,
                    await outcome_of(self.database, letter, self.settings.encryptor, self.settings.tolerance),
                )
            position = letters[-1].dead_letter_id
            async with self.database.connection() as connection:
                await journal.write(connection, outcomes.as_json(), (), position)


@dataclass(slots=True)
class Outcomes:
    """Of a dry run: how many letters have which outcome, and which those are, within bounds."""

    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, dead_letter_id: int, outcome: str) -> None:
        if outcome not in self.outcomes and len(self.outcomes) >= MOST_OUTCOMES:
            outcome = FURTHER
        one = self.outcomes.setdefault(outcome, {"letters": 0, "examples": []})
        one["letters"] += 1
        if len(one["examples"]) < MOST_EXAMPLES:
            one["examples"].append(dead_letter_id)

    def as_json(self) -> dict[str, Any]:
        handled = sum(one["letters"] for one in self.outcomes.values())
        return {"handled": handled, "outcomes": self.outcomes}


@dataclass(slots=True)
class _JobJournal(Journal):
    """Writes down the progress of a job, and ends it when a user cancels it or this process ends."""

    job: Job
    stopping: asyncio.Event
    most_listed: int | None = MOST_LISTED

    async def save(
        self, connection: Connection, tally: Tally, under_way: Collection[int], position: int
    ) -> None:
        """Raises: JobLost."""
        await self.write(connection, asdict(tally), under_way, position)

    async def write(
        self, connection: Connection, tally: dict[str, Any], under_way: Collection[int], position: int
    ) -> None:
        """Raises: JobLost."""
        text = orjson.dumps(tally).decode()
        if not await connection.fetch(
            bulk_jobs.SAVE, self.job.job_id, self.job.starts, position, text, list(under_way)
        ):
            raise self._lost()

    async def check(self, connection: Connection) -> None:
        """Raises: JobLost, _Cancelled, _Stopping."""
        rows = await connection.fetch(bulk_jobs.CHECK, self.job.job_id, self.job.starts)
        if not rows:
            raise self._lost()
        if rows[0]["is_cancel_requested"]:
            raise _Cancelled
        if self.stopping.is_set():
            raise _Stopping

    def _lost(self) -> JobLost:
        return JobLost(f"another process has taken job {self.job.job_id}")


def _tally(job: Job) -> Tally:
    """As it was written down, without the reason for which it stopped."""
    values = {**job.tally, "stopped": None}
    values["unready"] = [(number, reason) for number, reason in values.get("unready", ())]
    return Tally(**values)
