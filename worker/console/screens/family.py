"""One family: throughput, age of events, retry queues, failures that wait; its pause."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from consumers.registry import FAMILIES
from worker.console.access import Refused
from worker.console.contract import Console, Done, NotThere, Parameters, Request
from worker.console.form import optional_reason, required_reason
from worker.console.history import RANGES, History, history
from worker.console.pipeline import FamilyView
from worker.dead_letters.search import Selection, groups
from worker.observability.errors import safe_summary
from worker.postgres import pauses
from worker.postgres.errors import PostgresError
from worker.postgres.failures import DatabaseUnavailable, TransactionConflict
from worker.postgres.pauses import AlreadyPaused

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

MOST_FAILURES = 20


@dataclass(frozen=True, slots=True)
class FamilyScreen:
    """`event_age` has quantiles of the last seconds; `failures` are groups of dead letters, None if unread.

    `waiting` and `applied` are charts of the hours that were requested, the oldest point first.
    """

    at: datetime
    troubles: tuple[str, ...]
    family: FamilyView
    event_types: tuple[str, ...]
    event_age: dict[str, float | None]
    waiting: list[float | None]
    applied: list[float | None]
    failures: list[dict[str, Any]] | None
    trouble: str | None
    hours: int = 1
    range: str = RANGES[1]
    ranges: tuple[int, ...] = ()


async def view(console: Console, parameters: Parameters) -> FamilyScreen:
    """Raises: NotThere, NoSnapshot."""
    name = parameters["family"]
    if name not in FAMILIES:
        raise NotThere(f"There is no family {name}.")
    pipeline = await console.poller.current()
    failures, trouble = await _failures(console, name)
    ages = console.poller.event_age(name, tuple(QUANTILES.values()))
    charts: History = await history(console, parameters)
    return FamilyScreen(
        at=pipeline.at,
        troubles=(*pipeline.troubles, *([charts.trouble] if charts.trouble else ())),
        family=next(family for family in pipeline.families if family.name == name),
        event_types=FAMILIES[name].event_types,
        event_age=dict(zip(QUANTILES, ages, strict=True)),
        waiting=charts.waiting[name],
        applied=charts.applied[name],
        hours=charts.hours,
        range=charts.label,
        ranges=charts.ranges,
        failures=failures,
        trouble=trouble,
    )


async def pause(console: Console, request: Request) -> Done:
    """Raises: Refused."""
    name = _existing(request)
    reason = required_reason(request.form)
    try:
        made = await pauses.pause(console.database, name, reason, request.user.name)
    except AlreadyPaused as refusal:
        raise Refused(409, f"{refusal}.") from None
    await console.poller.refresh()
    return Done(f"{name} is {made}. Every consumer process obeys within 2 s.")


async def resume(console: Console, request: Request) -> Done:
    """Raises: Refused."""
    name = _existing(request)
    reason = optional_reason(request.form)
    ended = await pauses.resume(console.database, name, reason, request.user.name)
    await console.poller.refresh()
    if ended is None:
        raise Refused(409, f"{name} is not paused. Nothing was changed.")
    return Done(f"{name} is resumed. It was {ended}.")


def _existing(request: Request) -> str:
    name = request.parameters["family"]
    if name not in FAMILIES:
        raise Refused(404, f"There is no family {name}.")
    return name


async def _failures(console: Console, name: str) -> tuple[list[dict[str, Any]] | None, str | None]:
    try:
        async with console.database.connection() as connection:
            return (await groups(connection, Selection(origin=name)))[:MOST_FAILURES], None
    except (DatabaseUnavailable, TransactionConflict) as error:
        return None, str(error)
    except PostgresError as error:
        return None, safe_summary(error)
