"""Sets the gauges: waiting messages and consumers per queue, dead letters, actions.

Every consumer process measures all queues, so the gauges do not depend on one process.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import nan

import structlog

from consumers.registry import FAMILIES
from worker.actions.registry import KINDS
from worker.amqp.connection import Broker, BrokerConnection
from worker.amqp.queue_set import QueueSet
from worker.amqp.topology import ACTIONS, QUARANTINE
from worker.config.settings import Settings
from worker.dead_letters.message import QUARANTINE_ORIGIN
from worker.dead_letters.store import waiting_by_origin
from worker.observability import metrics
from worker.observability.backoff import repeat_until_stopping
from worker.observability.errors import safe_summary
from worker.outbox import action_list
from worker.outbox import actions as table
from worker.outbox import changes as outbox
from worker.postgres.pool import Connection, Database

log = structlog.get_logger(__name__)

MEASURE_EVERY_SECONDS = 10.0
MEASURE_TIMEOUT_SECONDS = 20.0
MEASURE_TABLES_EVERY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class QueueLabels:
    """A queue, and the labels of its gauges; an empty one does not apply."""

    queue: str
    family: str
    role: str
    step: str


def measured_queues(settings: Settings) -> Iterator[QueueLabels]:
    """Actions and subscribers have separate roles, so that alerts on families ignore them."""
    delays = settings.delays
    for family in FAMILIES:
        yield from _labels(QueueSet.of(family, delays), "work", "retry")
    yield from _labels(QueueSet.of(ACTIONS, delays), "action", "action_retry")
    yield QueueLabels(QUARANTINE, "", "quarantine", "")
    for subscriber in settings.subscribers:
        yield from _labels(QueueSet.of(subscriber.origin, delays), "webhook", "webhook_retry")


def _labels(queues: QueueSet, main: str, retry: str) -> Iterator[QueueLabels]:
    """`main` and `retry` are the roles of these queues."""
    yield QueueLabels(queues.main, queues.origin, main, "")
    for queue in queues.retries:
        yield QueueLabels(queue.name, queues.origin, retry, queue.step)
    yield QueueLabels(queues.dead, queues.origin, "dead", "")


async def measure_queues_regularly(broker: Broker, settings: Settings, stopping: asyncio.Event) -> None:
    """Measure until shutdown. While the broker is unavailable the gauges have no value, not an old one."""
    measured = list(measured_queues(settings))

    async def measure() -> None:
        async with asyncio.timeout(MEASURE_TIMEOUT_SECONDS), broker.connection() as connection:
            await _measure(connection, measured)

    def clear(error: Exception) -> None:
        metrics.QUEUE_MESSAGES.clear()
        metrics.QUEUE_CONSUMERS.clear()
        log.warning("queue_metrics.failed", error=safe_summary(error))

    await repeat_until_stopping(measure, MEASURE_EVERY_SECONDS, stopping, clear)


async def _measure(connection: BrokerConnection, measured: Sequence[QueueLabels]) -> None:
    depths = await connection.depths([one.queue for one in measured])
    for one in measured:
        labels = (one.queue, one.family, one.role, one.step)
        depth = depths[one.queue]
        if depth is None:
            for gauge in (metrics.QUEUE_MESSAGES, metrics.QUEUE_CONSUMERS):
                gauge.remove_by_labels({"queue": one.queue})
            continue
        metrics.QUEUE_MESSAGES.labels(*labels).set(depth.ready)
        metrics.QUEUE_CONSUMERS.labels(*labels).set(depth.consumers)
    metrics.QUEUES_MEASURED_AT.set_to_current_time()


async def measure_tables_regularly(database: Database, stopping: asyncio.Event) -> None:
    """Measure tables until shutdown. After a failure the gauges have no value."""

    async def measure() -> None:
        async with database.connection() as connection:
            waiting = await waiting_by_origin(connection)
            metrics.CHANGES_WAITING_SECONDS.set(await outbox.oldest(connection))
            await _measure_actions(connection)
        metrics.DEAD_LETTERS.clear()
        for origin in {*FAMILIES, QUARANTINE_ORIGIN, *waiting}:
            metrics.DEAD_LETTERS.labels(origin).set(waiting.get(origin, 0))

    def clear(error: Exception) -> None:
        metrics.DEAD_LETTERS.clear()
        metrics.CHANGES_WAITING_SECONDS.set(nan)
        metrics.ACTIONS_WAITING.clear()
        metrics.ACTIONS_WAITING_SECONDS.clear()
        log.warning("table_metrics.failed", error=safe_summary(error))

    await repeat_until_stopping(measure, MEASURE_TABLES_EVERY_SECONDS, stopping, clear)


async def _measure_actions(connection: Connection) -> None:
    """Each kind has a value from the start, so that its first unknown outcome is an increase."""
    waiting = {(row["kind"], row["state"]): row for row in await connection.fetch(action_list.COUNTS)}
    for kind in {*KINDS, *(kind for kind, _ in waiting)}:
        for state in table.UNFINISHED:
            row = waiting.get((kind, state))
            metrics.ACTIONS_WAITING.labels(kind, state).set(row["actions"] if row else 0)
        due = waiting.get((kind, "due"))
        metrics.ACTIONS_WAITING_SECONDS.labels(kind).set(due["oldest_seconds"] if due else 0)
