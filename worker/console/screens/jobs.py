"""Jobs: what is about to be done to many dead letters, and how far it is."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from consumers.family import Connection
from worker.console.access import Refused
from worker.console.contract import Console, Done, NotThere, Parameters, Request
from worker.console.form import optional_reason, required_reason
from worker.console.letter_filters import (
    BadFilter,
    chosen,
    described,
    query_of,
    selection_in,
)
from worker.console.row_ids import LARGEST, row_id
from worker.dead_letters import bulk_jobs, search, store
from worker.dead_letters.bulk_jobs import OPEN, RESUMABLE, Job, JobRefused, JobState, Kind, NoSuchJob
from worker.postgres.pool import Database

JOBS_PER_PAGE = 50
GROUPS_SHOWN = 10

DEFAULT_RATE = 50
LOWEST_RATE = 0.1
HIGHEST_RATE = 10_000

# A user cancels or resumes a job, for a reason.
Change = Callable[[Database, int, str, str | None], Awaitable[None]]

TITLES = {Kind.DRY_RUN: "Dry run", Kind.REPLAY: "Replay", Kind.DISCARD: "Discard"}


@dataclass(frozen=True, slots=True)
class JobLine:
    """A job in a list. `percent` is None before it runs."""

    job_id: int
    title: str
    state: str
    who: str
    reason: str | None
    created_at: datetime
    ended_at: datetime | None
    matched: int
    handled: int
    total: int | None
    percent: int | None


@dataclass(frozen=True, slots=True)
class JobsScreen:
    at: datetime
    jobs: list[JobLine]
    is_first_page: bool
    next_before: int | None


@dataclass(frozen=True, slots=True)
class NewJobScreen:
    """What would be taken: the forms send `selection` and `last_id`. `dry_run` is the job before it."""

    at: datetime
    criteria: list[tuple[str, str]]
    letters: int
    waiting: int
    groups: list[dict[str, Any]]
    selection: str
    last_id: int
    rate: int
    dry_run: "JobScreen | None"


@dataclass(frozen=True, slots=True)
class JobScreen:
    """`outcomes` are those of a dry run. `left_seconds` is an estimate, None if there is no rate."""

    at: datetime
    line: JobLine
    kind: Kind
    criteria: list[tuple[str, str]]
    last_id: int
    rate: float | None
    resumed_by: str | None
    starts: int
    started_at: datetime | None
    progress_at: datetime | None
    note: str | None
    is_cancelling: bool
    can_cancel: bool
    can_resume: bool
    waits_for: int | None
    left_seconds: float | None
    tally: dict[str, int]
    outcomes: list[dict[str, Any]]
    unready: list[dict[str, Any]]
    returned: list[int]
    returned_query: str
    is_read_only: bool


async def recent(connection: Connection, *, before: int = LARGEST, limit: int) -> list[JobLine]:
    return [_line(job) for job in await bulk_jobs.newest(connection, before=before, limit=limit)]


async def view_list(console: Console, parameters: Parameters) -> JobsScreen:
    """Raises: NotThere."""
    before = _number(parameters.get("before", str(LARGEST)), "There is no such page.")
    async with console.database.connection() as connection:
        jobs = await recent(connection, before=before, limit=JOBS_PER_PAGE + 1)
    has_more = len(jobs) > JOBS_PER_PAGE
    return JobsScreen(
        at=datetime.now(UTC),
        jobs=jobs[:JOBS_PER_PAGE],
        is_first_page="before" not in parameters,
        next_before=jobs[JOBS_PER_PAGE - 1].job_id if has_more else None,
    )


async def view(console: Console, parameters: Parameters) -> JobScreen:
    """Raises: NotThere."""
    return await _screen(console, parameters["job_id"])


async def _screen(console: Console, text: str) -> JobScreen:
    """Raises: NotThere."""
    job = await _job(console, text)
    waits_for = None
    if job.state is JobState.QUEUED:
        async with console.database.connection() as connection:
            waits_for = await bulk_jobs.earlier(connection, job)
    line = _line(job)
    is_open = job.state in OPEN
    left = (line.total or 0) - line.handled
    returned_query = {"view": "list"} | ({"origin": job.selection.origin} if job.selection.origin else {})
    if job.started_at is not None:
        returned_query["since"] = job.started_at.isoformat()
    return JobScreen(
        at=datetime.now(UTC),
        line=line,
        kind=job.kind,
        criteria=described(job.selection),
        last_id=job.last_id,
        rate=job.rate,
        resumed_by=job.resumed_by,
        starts=job.starts,
        started_at=job.started_at,
        progress_at=job.progress_at,
        note=job.note,
        is_cancelling=job.is_cancel_requested and is_open,
        can_cancel=is_open and not job.is_cancel_requested,
        can_resume=job.state in RESUMABLE,
        waits_for=waits_for,
        left_seconds=left / job.rate if job.rate and job.state is JobState.RUNNING and left > 0 else None,
        tally=_tally(job),
        outcomes=_outcomes(job),
        unready=[
            {"dead_letter_id": number, "reason": reason} for number, reason in job.tally.get("unready", ())
        ],
        returned=list(job.tally.get("returned", ())),
        returned_query=urlencode(returned_query),
        is_read_only=console.settings.console_read_only,
    )


async def view_new(console: Console, parameters: Parameters) -> NewJobScreen:
    """Raises: NotThere."""
    now = datetime.now(UTC)
    dry_run: JobScreen | None = None
    last_id: int | None = None
    if "job" in parameters:
        job = await _job(console, parameters["job"])
        selection, last_id = job.selection, job.last_id
        dry_run = await _screen(console, parameters["job"]) if job.kind is Kind.DRY_RUN else None
    else:
        try:
            selection = chosen(parameters, now)
        except BadFilter as error:
            raise NotThere(str(error)) from None
    async with search.searching(console.database) as connection:
        last_id = await store.last_id(connection) if last_id is None else last_id
        selection = replace(selection, states=bulk_jobs.STATES[Kind.REPLAY], last_id=last_id)
        letters = await search.count(connection, selection)
        discardable = replace(selection, states=bulk_jobs.STATES[Kind.DISCARD])
        waiting = await search.count(connection, discardable)
        groups = await search.groups_at_most(
            connection, selection, after=0, letters=LARGEST, limit=GROUPS_SHOWN
        )
    return NewJobScreen(
        at=now,
        criteria=described(selection),
        letters=letters,
        waiting=waiting,
        groups=groups,
        selection=query_of(selection),
        last_id=last_id,
        rate=DEFAULT_RATE,
        dry_run=dry_run,
    )


async def start_dry_run(console: Console, request: Request) -> Done:
    return await _start(console, request, Kind.DRY_RUN)


async def start_replay(console: Console, request: Request) -> Done:
    return await _start(console, request, Kind.REPLAY)


async def start_discard(console: Console, request: Request) -> Done:
    return await _start(console, request, Kind.DISCARD)


async def _start(console: Console, request: Request, kind: Kind) -> Done:
    """Raises: Refused."""
    form = request.form
    reason = None if kind is Kind.DRY_RUN else required_reason(form)
    try:
        selection = selection_in(form.get("selection", ""), datetime.now(UTC))
    except BadFilter as error:
        raise Refused(400, str(error)) from None
    last_id = row_id(form.get("last_id", ""))
    if last_id is None:
        raise Refused(400, "Nothing was started: the form has no highest id. Load the page again.")
    rate = _rate(form.get("rate", "")) if kind is Kind.REPLAY else None
    try:
        job = await bulk_jobs.make(
            console.database,
            kind,
            selection,
            who=request.user.name,
            reason=reason,
            rate=rate,
            last_id=last_id,
        )
    except JobRefused as error:
        raise Refused(409, str(error)) from None
    letters = f"{job.matched:,} dead letter{'' if job.matched == 1 else 's'}"
    return Done(f"{TITLES[kind]} of {letters} started as job {job.job_id}.", f"/jobs/{job.job_id}")


async def cancel(console: Console, request: Request) -> Done:
    return await _change(console, request, bulk_jobs.cancel, "Job {} is being cancelled.")


async def resume(console: Console, request: Request) -> Done:
    return await _change(console, request, bulk_jobs.resume, "Job {} continues.")


async def _change(console: Console, request: Request, change: Change, sentence: str) -> Done:
    """Raises: Refused, NotThere."""
    job_id = _number(request.parameters["job_id"], "There is no such job.")
    reason = optional_reason(request.form)
    try:
        await change(console.database, job_id, request.user.name, reason)
    except NoSuchJob as error:
        raise NotThere(str(error)) from None
    except JobRefused as error:
        raise Refused(409, str(error)) from None
    return Done(sentence.format(job_id), f"/jobs/{job_id}")


def _rate(text: str) -> float:
    """Raises: Refused."""
    try:
        rate = float(text)
    except ValueError:
        rate = 0
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise Refused(
            400,
            f"Nothing was started: the rate must be {LOWEST_RATE} to {HIGHEST_RATE:,} letters per second.",
        )
    return rate


async def _job(console: Console, text: str) -> Job:
    """Raises: NotThere."""
    try:
        return await bulk_jobs.get(console.database, _number(text, "There is no such job."))
    except NoSuchJob as error:
        raise NotThere(str(error)) from None


def _number(text: str, sentence: str) -> int:
    """Raises: NotThere."""
    number = row_id(text)
    if number is None:
        raise NotThere(sentence)
    return number


def _line(job: Job) -> JobLine:
    handled = _handled(job)
    percent = None
    if job.total is not None:
        percent = min(100, 100 * handled // job.total) if job.total else 100
    return JobLine(
        job_id=job.job_id,
        title=TITLES[job.kind],
        state=job.state.value,
        who=job.who,
        reason=job.reason,
        created_at=job.created_at,
        ended_at=job.ended_at,
        matched=job.matched,
        handled=handled,
        total=job.total,
        percent=percent,
    )


def _handled(job: Job) -> int:
    tally = _tally(job)
    match job.kind:
        case Kind.DRY_RUN:
            return tally["handled"]
        case Kind.REPLAY:
            return tally["replayed"] + tally["not_replayed"]
        case Kind.DISCARD:
            return tally["discarded"]


_NUMBERS = {
    Kind.DRY_RUN: ("handled",),
    Kind.REPLAY: ("replayed", "applied", "handed_on", "came_back", "not_replayed"),
    Kind.DISCARD: ("discarded",),
}


def _tally(job: Job) -> dict[str, int]:
    tally = {name: int(job.tally.get(name, 0)) for name in _NUMBERS[job.kind]}
    return tally | ({"under_way": len(job.under_way)} if job.kind is Kind.REPLAY else {})


def _outcomes(job: Job) -> list[dict[str, Any]]:
    """The most frequent first."""
    outcomes = job.tally.get("outcomes", {}).items()
    return [
        {"outcome": outcome, **one}
        for outcome, one in sorted(outcomes, key=lambda item: (-item[1]["letters"], item[0]))
    ]
