"""One family: throughput, age of events, retry queues, failures that wait."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from consumers.registry import FAMILIES
from worker.console.contract import Console, NotThere, Parameters
from worker.console.pipeline import FamilyView, condensed, hour
from worker.dead_letters.store import Selection, groups
from worker.observability.errors import safe_summary
from worker.postgres.errors import PostgresError
from worker.postgres.pool import DatabaseUnavailable, TransactionConflict

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

MOST_FAILURES = 20

# Of a chart: one per 30 s.
POINTS = 120


@dataclass(frozen=True, slots=True)
class FamilyScreen:
    """`event_age` has quantiles of the last seconds; `failures` are groups of dead letters, None if unread.

    `waiting` and `applied` are charts of the last hour, the oldest point first.
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


async def view(console: Console, parameters: Parameters) -> FamilyScreen:
    """Raises: NotThere, NoSnapshot."""
    name = parameters["family"]
    if name not in FAMILIES:
        raise NotThere(f"There is no family {name}.")
    pipeline = await console.poller.current()
    failures, trouble = await _failures(console, name)
    ages = console.poller.event_age(name, tuple(QUANTILES.values()))
    history = console.poller.history(name)
    return FamilyScreen(
        at=pipeline.at,
        troubles=pipeline.troubles,
        family=next(family for family in pipeline.families if family.name == name),
        event_types=FAMILIES[name].event_types,
        event_age=dict(zip(QUANTILES, ages, strict=True)),
        waiting=condensed(hour([point.queued for point in history]), POINTS),
        applied=condensed(hour([point.applied_per_second for point in history]), POINTS),
        failures=failures,
        trouble=trouble,
    )


async def _failures(console: Console, name: str) -> tuple[list[dict[str, Any]] | None, str | None]:
    try:
        async with console.database.connection() as connection:
            return (await groups(connection, Selection(origin=name)))[:MOST_FAILURES], None
    except (DatabaseUnavailable, TransactionConflict) as error:
        return None, str(error)
    except PostgresError as error:
        return None, safe_summary(error)
