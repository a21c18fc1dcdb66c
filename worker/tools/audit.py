"""`stockhook audit`: accounts for each accepted event by its sequence number, or reports it as missing.

Below the highest known number of a source and family, every number is applied (or a duplicate), waits in a
retry queue, is dead, or is void. The others wait in the family's queue or are in flight; if they do not, they
are missing. Two cases stay invisible: the last events of a source, if no later event of the
family was applied yet; and a loss while as many other events wait.

For the change feed it checks that each committed change is confirmed by the broker, or waits to be
published. It cannot know what a subscriber did with it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

import structlog

from consumers.registry import FAMILIES
from worker.amqp.connection import Broker
from worker.amqp.queue_set import QueueSet
from worker.amqp.topology import QUARANTINE
from worker.change_feed.backlog import (
    Feed,
    feed,
)
from worker.config.settings import Settings
from worker.dead_letters.store import waiting_by_origin
from worker.dead_letters.unhandled_store import COUNT as COUNT_UNHANDLED
from worker.observability import metrics
from worker.observability.backoff import repeat_until_stopping, sleep_unless_stopping
from worker.observability.errors import safe_summary
from worker.postgres.pool import Database

log = structlog.get_logger(__name__)

# In-flight deliveries are settled within this time, unless something is wrong.
PATIENCE_SECONDS = 10.0
MEASURE_EVERY_SECONDS = 60.0

# One row per source and family, of a few ranges each: its cost does not grow with the number of events.
ACCOUNTS = """
SELECT source, family, applied, duplicates,
    upper(range_merge(known)) - 1 AS highest,
    ARRAY(SELECT unnest(voided - seen)) AS voided,
    ARRAY(SELECT unnest(retrying - seen - dead)) AS retrying,
    ARRAY(SELECT unnest(dead - seen)) AS dead,
    ARRAY(SELECT unnest(int8multirange(int8range(1, upper(range_merge(known)))) - known)) AS unaccounted
FROM (SELECT *, seen + retrying + dead + voided AS known FROM event_sequences) AS sequences
WHERE NOT isempty(known)
ORDER BY family, source
"""

# First and last sequence number of each range.
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class SourceAccount:
    """The dispositions of one family's events of one source; no consumer has seen `unaccounted` numbers."""

    source: int
    family: str
    accepted: int
    applied: int
    duplicates: int
    dead: int
    retrying: Ranges
    unaccounted: Ranges


@dataclass(frozen=True, slots=True)
class Waiting:
    """Messages that wait for one family."""

    queue: int
    retry: dict[str, int]
    dead: int


@dataclass(frozen=True, slots=True)
class Audit:
    """`missing` names, per family, the numbers that cannot be found: source, first and last."""

    accounts: tuple[SourceAccount, ...]
    waiting: dict[str, Waiting]
    quarantined: int
    unhandled: int
    spooled: int | None
    missing: dict[str, tuple[tuple[int, int, int], ...]]
    feed: Feed

    @property
    def is_well(self) -> bool:
        return not self.missing and not self.feed.missing

    @property
    def missing_events(self) -> dict[str, int]:
        return {
            family: sum(last - first + 1 for _, first, last in ranges)
            for family, ranges in self.missing.items()
        }


async def accounts(database: Database) -> tuple[SourceAccount, ...]:
    """Raises: DatabaseUnavailable."""
    async with database.connection() as connection:
        rows = await connection.fetch(ACCOUNTS)
    return tuple(
        SourceAccount(
            source=row["source"],
            family=row["family"],
            accepted=row["highest"] - size(_ranges(row["voided"])),
            applied=row["applied"],
            duplicates=row["duplicates"],
            dead=size(_ranges(row["dead"])),
            retrying=_ranges(row["retrying"]),
            unaccounted=_ranges(row["unaccounted"]),
        )
        for row in rows
    )


def size(ranges: Ranges) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _ranges(rows: Sequence[Any]) -> Ranges:
    """From Postgres's int8range, whose upper bound is not in it."""
    return tuple((int(part.lower), int(part.upper) - 1) for part in rows)


async def audit(
    broker: Broker, database: Database, settings: Settings, *, spooled: int | None, patience: float
) -> Audit:
    """Audit, and repeat it for up to `patience` seconds while events seem to be missing.

    In-flight deliveries wait in no queue, but are accounted for a moment later.

    Raises:
        BrokerUnavailable
        DatabaseUnavailable
    """
    end = monotonic() + patience
    sets = [QueueSet.of(family, settings.delays) for family in FAMILIES]
    names = [QUARANTINE, *(name for queues in sets for name in queues.names)]
    async with broker.connection() as broker_connection:
        while True:
            depths = await broker_connection.depths(names)
            ready = {queue: depth.ready if depth else 0 for queue, depth in depths.items()}
            waiting = {queues.origin: _waiting(ready, queues) for queues in sets}
            account_list = await accounts(database)
            missing = _missing(account_list, waiting)
            if not missing or monotonic() > end:
                break
            await asyncio.sleep(0.5)
        async with database.connection() as connection:
            dead_letters = await waiting_by_origin(connection)
            feed_state = await feed(broker_connection, connection, settings, dead_letters)
            unhandled = await connection.fetchval(COUNT_UNHANDLED)
    return Audit(account_list, waiting, ready[QUARANTINE], unhandled, spooled, missing, feed_state)


def _waiting(ready: Mapping[str, int], queues: QueueSet) -> Waiting:
    """The waiting messages of a family, from the ready messages of each queue."""
    return Waiting(
        queue=ready[queues.main],
        retry={retry.step: ready[retry.name] for retry in queues.retries},
        dead=ready[queues.dead],
    )


def _missing(
    known_accounts: Sequence[SourceAccount], waiting: dict[str, Waiting]
) -> dict[str, tuple[tuple[int, int, int], ...]]:
    """By family, the numbers that cannot be found, if more are outstanding than messages wait."""
    missing: dict[str, tuple[tuple[int, int, int], ...]] = {}
    for family, messages in waiting.items():
        ours = [account for account in known_accounts if account.family == family]
        unseen = sum(size(account.unaccounted) for account in ours)
        retrying = sum(size(account.retrying) for account in ours)
        waits = messages.queue + sum(messages.retry.values())
        if unseen + retrying <= waits:
            continue
        # If no message is left, the events that wait for a retry are lost as well.
        missing[family] = tuple(
            (account.source, first, last)
            for account in ours
            for first, last in sorted(account.unaccounted + (account.retrying if unseen <= waits else ()))
        )
    return missing


def as_json(result: Audit) -> dict[str, Any]:
    return {**asdict(result), "missing_events": result.missing_events, "feed": result.feed.as_json()}


async def measure_regularly(
    broker: Broker, database: Database, settings: Settings, stopping: asyncio.Event
) -> None:
    """Update the metrics of missing events, until shutdown. The time of the last audit is one as well."""

    async def measure() -> None:
        result = await audit(broker, database, settings, spooled=None, patience=PATIENCE_SECONDS)
        for family in FAMILIES:
            metrics.MISSING.labels(family).set(result.missing_events.get(family, 0))
        for counts in result.feed.families:
            metrics.CHANGES_MISSING.labels(counts.family).set(counts.missing)
        metrics.AUDITED_AT.set_to_current_time()

    def warn(error: Exception) -> None:
        log.warning("audit.failed", error=safe_summary(error))

    await sleep_unless_stopping(MEASURE_EVERY_SECONDS, stopping)
    await repeat_until_stopping(measure, MEASURE_EVERY_SECONDS, stopping, warn)
