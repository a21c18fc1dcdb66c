"""`stockhook audit`: each accepted event is accounted for, or missing, by its place.

Below the highest place that is known of a stream and family, every place is applied (or a duplicate),
waits in a retry step, is dead, or was given out in vain. What is left waits in the family's queue or in
a consumer's hands; and if it does not, it is missing.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from time import monotonic
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from consumers.registry import FAMILIES
from worker.broker import Broker, Link
from worker.database import Database
from worker.topology import QUARANTINE, dead_queue, family_queue, retry_queue

# A place is an instant of one stream, so its ranges are few, whatever the number of events.
ACCOUNTS = """
SELECT stream, family, applied, duplicates, last_received_at,
    upper(range_merge(known)) - 1 AS highest,
    (SELECT coalesce(sum(upper(part) - lower(part)), 0) FROM unnest(voided - seen) AS part)::bigint AS unused,
    (SELECT coalesce(sum(upper(part) - lower(part)), 0) FROM unnest(retrying - seen - dead) AS part)::bigint
        AS retrying,
    (SELECT coalesce(sum(upper(part) - lower(part)), 0) FROM unnest(dead - seen) AS part)::bigint AS dead,
    ARRAY(
        SELECT int8range(lower(part), upper(part))
        FROM unnest(int8multirange(int8range(1, upper(range_merge(known)))) - known) AS part
    ) AS unaccounted
FROM (SELECT *, seen + retrying + dead + voided AS known FROM streams) AS streams
WHERE NOT isempty(known)
ORDER BY family, stream
"""


@dataclass(frozen=True, slots=True)
class Account:
    """What became of one family's events of one stream; the numbers are of places.

    `unaccounted` are ranges of places, first and last, that nobody has seen.
    """

    stream: int
    family: str
    accepted: int
    applied: int
    duplicates: int
    retrying: int
    dead: int
    unaccounted: tuple[tuple[int, int], ...]

    @property
    def unaccounted_places(self) -> int:
        return sum(last - first + 1 for first, last in self.unaccounted)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Messages that wait for one family."""

    queue: int
    retry: dict[str, int]
    dead: int


@dataclass(frozen=True, slots=True)
class Audit:
    """`missing` names, per family, the places that are nowhere: stream, first and last."""

    accounts: tuple[Account, ...]
    waiting: dict[str, Waiting]
    quarantined: int
    spooled: int | None
    missing: dict[str, tuple[tuple[int, int, int], ...]]

    @property
    def missing_places(self) -> dict[str, int]:
        return {
            family: sum(last - first + 1 for _, first, last in ranges)
            for family, ranges in self.missing.items()
        }


async def accounts(database: Database) -> tuple[Account, ...]:
    """Raises: DatabaseUnavailable."""
    async with database.connection() as connection:
        rows = await connection.fetch(ACCOUNTS)
    return tuple(
        Account(
            stream=row["stream"],
            family=row["family"],
            accepted=row["highest"] - row["unused"],
            applied=row["applied"],
            duplicates=row["duplicates"],
            retrying=row["retrying"],
            dead=row["dead"],
            unaccounted=tuple((part.lower, part.upper - 1) for part in row["unaccounted"]),
        )
        for row in rows
    )


async def audit(
    broker: Broker,
    database: Database,
    delays: Sequence[timedelta],
    *,
    spooled: int | None,
    patience: float,
) -> Audit:
    """Look, and look again for `patience` seconds while something is neither waiting nor accounted for.

    What is in a consumer's hands waits nowhere, but is accounted for a moment later.

    Raises:
        BrokerUnavailable
        DatabaseUnavailable
    """
    end = monotonic() + patience
    async with broker.connection() as link:
        while True:
            waiting = {family: await _waiting(link, family, delays) for family in FAMILIES}
            known = await accounts(database)
            missing = _missing(known, waiting)
            if not missing or monotonic() > end:
                break
            await asyncio.sleep(0.5)
        quarantine = await link.depth(QUARANTINE)
    return Audit(known, waiting, quarantine.ready if quarantine else 0, spooled, missing)


async def _waiting(link: Link, family: str, delays: Sequence[timedelta]) -> Waiting:
    async def ready(queue: str) -> int:
        found = await link.depth(queue)
        return found.ready if found else 0

    return Waiting(
        queue=await ready(family_queue(family)),
        retry={
            f"{int(delay.total_seconds())}s": await ready(retry_queue(family, delay)) for delay in delays
        },
        dead=await ready(dead_queue(family)),
    )


def _missing(
    known: Sequence[Account], waiting: dict[str, Waiting]
) -> dict[str, tuple[tuple[int, int, int], ...]]:
    """Families of which more places are unaccounted for than messages wait in the queue, or are lost
    from their retry steps."""
    missing: dict[str, tuple[tuple[int, int, int], ...]] = {}
    for family, there in waiting.items():
        ours = [account for account in known if account.family == family]
        places = sum(account.unaccounted_places for account in ours)
        if places > there.queue:
            missing[family] = tuple(
                (account.stream, first, last) for account in ours for first, last in account.unaccounted
            )
    return missing


def as_json(found: Audit) -> dict[str, Any]:
    return {**asdict(found), "missing_places": found.missing_places}


def as_tables(found: Audit) -> RenderableType:
    """For a terminal."""
    streams = Table("family", "stream", "accepted", "applied", "duplicate", "retrying", "dead", "unaccounted")
    for column in streams.columns[2:]:
        column.justify = "right"
    for account in found.accounts:
        numbers = (
            account.accepted,
            account.applied,
            account.duplicates,
            account.retrying,
            account.dead,
            account.unaccounted_places,
        )
        streams.add_row(account.family, str(account.stream), *(f"{number:,}" for number in numbers))
    queues = Table("family", "in queue", *_steps(found), "dead", "missing")
    for family, waiting in found.waiting.items():
        numbers = (waiting.queue, *waiting.retry.values(), waiting.dead, found.missing_places.get(family, 0))
        queues.add_row(family, *(f"{number:,}" for number in numbers))
    spooled = "unknown (the ingest does not answer)" if found.spooled is None else f"{found.spooled:,}"
    lines = [f"spooled: {spooled}", f"quarantined: {found.quarantined:,}"]
    lines += [
        f"missing: {family}, stream {stream}, places {first} to {last}"
        for family, ranges in found.missing.items()
        for stream, first, last in ranges
    ]
    return Group(streams, queues, *lines)


def _steps(found: Audit) -> list[str]:
    return list(next(iter(found.waiting.values())).retry) if found.waiting else []
