"""Refused at the door: counts and rates of what the ingest refused, and the events of unhandled types."""

from dataclasses import dataclass
from datetime import datetime

from worker.console.contract import Console, Parameters
from worker.console.refusals import Refusals
from worker.dead_letters.unhandled_store import TypeCount, count_by_type
from worker.observability.errors import safe_summary
from worker.postgres.errors import PostgresError
from worker.postgres.failures import DatabaseUnavailable, TransactionConflict
from worker.postgres.pool import Database

# How long the counts of unhandled events are shown to all viewers.
UNHANDLED_SECONDS = 15.0

MOST_TYPES = 50


@dataclass(frozen=True, slots=True)
class UnhandledType:
    """`family` handles the type in this release; None if none does."""

    marketplace: str
    type: str
    events: int
    first_at: datetime
    last_at: datetime
    family: str | None


@dataclass(frozen=True, slots=True)
class RefusalsScreen:
    """`unhandled` has the most frequent types, of which there are `types`; None if they cannot be read."""

    refusals: Refusals
    unhandled: tuple[UnhandledType, ...] | None
    types: int
    trouble: str | None


async def view(console: Console, _: Parameters) -> RefusalsScreen:
    """Raises: NoSnapshot."""
    await console.poller.current()
    unhandled: list[TypeCount] | None = None
    trouble = None
    try:
        unhandled = await console.shared.get(
            "unhandled", UNHANDLED_SECONDS, lambda: _unhandled(console.database)
        )
    except (DatabaseUnavailable, TransactionConflict) as error:
        trouble = str(error)
    except PostgresError as error:
        trouble = safe_summary(error)
    return RefusalsScreen(
        refusals=console.poller.refusals(),
        unhandled=None if unhandled is None else tuple(map(_shown, unhandled[:MOST_TYPES])),
        types=len(unhandled or ()),
        trouble=trouble,
    )


async def _unhandled(database: Database) -> list[TypeCount]:
    async with database.connection() as connection:
        return await count_by_type(connection)


def _shown(count: TypeCount) -> UnhandledType:
    return UnhandledType(
        count.provider, count.type, count.events, count.first_at, count.last_at, count.family
    )
