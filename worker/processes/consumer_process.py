"""The process that consumes: from its start to the last in-flight event."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Protocol, TypeVar

import structlog

from consumers.registry import FAMILIES
from worker.actions.executor import Executor
from worker.actions.registry import enabled_kinds
from worker.actions.relay import Relay as ActionRelay
from worker.amqp.connection import Broker
from worker.amqp.desired_topology import expected_topology
from worker.amqp.publisher import Publisher
from worker.amqp.switch import Switch
from worker.amqp.topology import topology
from worker.change_feed.relay import Relay
from worker.change_feed.webhook_dispatcher import WebhookDispatcher
from worker.config.connections import CONNECTIONS
from worker.config.settings import Settings
from worker.dead_letters.archiver import Archiver
from worker.observability import metrics
from worker.observability.backoff import ShutdownRequested, retry_until_available
from worker.observability.errors import StockhookError
from worker.observability.exit_codes import MISCONFIGURED
from worker.observability.ops_server import serve_ops
from worker.observability.signals import hang_watch, stop_on_signals
from worker.observability.systemd import notify_systemd
from worker.pipeline.consumer import Consumer
from worker.pipeline.pause_watch import PauseWatch
from worker.postgres.durability import Flusher
from worker.postgres.event_log import add_months_regularly
from worker.postgres.failures import DatabaseUnavailable
from worker.postgres.migrations import pending
from worker.postgres.pool import Database
from worker.postgres.retention import retain_regularly
from worker.processes.queue_metrics import measure_queues_regularly, measure_tables_regularly
from worker.tools.audit import measure_regularly

log = structlog.get_logger(__name__)

T = TypeVar("T")

# A batch in which everything fails has a copy of each event confirmed at once.
COPY_TIMEOUT_SECONDS = 10.0


# Shorter than a transaction may be idle.
CHANGE_TIMEOUT_SECONDS = 5.0

# Objects allocated before the collector looks for cycles: some batches' worth, instead of 700.
GARBAGE_THRESHOLD = 50_000


class Worker(Protocol):
    """A task that runs until shutdown."""

    async def run(self) -> None: ...


class UnexpectedExit(StockhookError):
    """A task that runs until shutdown ended early. The supervisor restarts the process."""


class PendingMigrations(StockhookError):
    """Migrations are missing. The text names the command."""

    exit_code = MISCONFIGURED


async def consume(settings: Settings, names: Sequence[str]) -> None:
    """Consume these families until SIGTERM or SIGINT; then finish in-flight deliveries.

    Raises:
        PendingMigrations
        TopologyMismatch
    """
    stopping = stop_on_signals()
    _collect_garbage_rarely()
    broker = Broker(settings.amqp_url.get_secret_value(), "consumer")
    async with AsyncExitStack() as stack:
        database = Database(
            settings.database_url.get_secret_value(), len(names) + CONNECTIONS, "stockhook/consumer"
        )
        stack.push_async_callback(database.close)
        database.measure()
        database.warn_of_ignored()
        flusher = await stack.enter_async_context(Flusher(database))
        publisher = await stack.enter_async_context(
            Publisher(
                broker.for_role("consumer-publisher"),
                topology(settings.delays, names),
                COPY_TIMEOUT_SECONDS,
                settings.declare_topology,
            )
        )
        isolation_lock = asyncio.Lock()
        switches = {name: Switch() for name in names}
        pauses = PauseWatch(database, switches, stopping)
        consumers = [
            Consumer(
                FAMILIES[name],
                settings,
                broker,
                database,
                flusher,
                publisher,
                stopping,
                isolation_lock,
                enabled_kinds(settings),
                switches[name],
            )
            for name in names
        ]
        checks = {consumer.family.name: consumer.check for consumer in consumers}
        checks["publisher"] = publisher.check
        await stack.enter_async_context(
            serve_ops(settings.ops_host, settings.ops_port, checks, metrics.CONSUMER)
        )
        await stack.enter_async_context(hang_watch())
        await stack.enter_async_context(notify_systemd(checks, stopping))
        with suppress(ShutdownRequested):
            await _refuse_when_behind(database, stopping)
            # Before the first session: a family that a user paused consumes nothing.
            await _when_available(pauses.read, stopping)
            for work in (
                measure_regularly(broker, database, settings, stopping),
                measure_queues_regularly(broker.for_role("consumer-gauges"), settings, stopping),
                measure_tables_regularly(database, stopping),
                add_months_regularly(database, stopping),
                retain_regularly(database, settings, stopping),
            ):
                stack.callback(asyncio.create_task(work).cancel)
            archivers = (
                [Archiver(tuple(names), settings, broker, database, publisher, stopping)]
                if settings.keep_dead_letters
                else []
            )
            feed_tasks: list[Relay | WebhookDispatcher] = []
            if settings.changes:
                # Copies of failed events and changes must not delay each other. The queues of subscribers
                # over HTTP are bound before the first change is published.
                feed = Publisher(
                    broker.for_role("changes"),
                    expected_topology(settings, names),
                    CHANGE_TIMEOUT_SECONDS,
                    settings.declare_topology,
                )
                await stack.enter_async_context(feed)
                feed_tasks = _feed_tasks(
                    settings, database, flusher, feed, broker, publisher, consumers, stopping
                )
            other_tasks: list[Worker] = [
                pauses,
                ActionRelay(database, publisher, stopping),
                Executor(settings, broker, database, publisher, stopping),
            ]
            await _run(
                consumers,
                [*archivers, *feed_tasks, *other_tasks],
                publisher,
                stopping,
                settings.shutdown_grace,
            )
    log.info("consumers.stopped")


def _feed_tasks(
    settings: Settings,
    database: Database,
    flusher: Flusher,
    feed: Publisher,
    broker: Broker,
    publisher: Publisher,
    consumers: Sequence[Consumer],
    stopping: asyncio.Event,
) -> list[Relay | WebhookDispatcher]:
    """The tasks that publish changes, and those that deliver them over HTTP."""

    def are_behind() -> bool:
        return any(consumer.is_behind for consumer in consumers)

    return [
        Relay(database, flusher, feed, stopping, should_throttle=are_behind),
        *(
            WebhookDispatcher(subscriber, settings, broker, database, publisher, stopping)
            for subscriber in settings.subscribers
        ),
    ]


def _collect_garbage_rarely() -> None:
    """Reduce garbage collections: the objects of a batch have no cycles and are freed with it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)


async def _run(
    consumers: Sequence[Consumer],
    others: Sequence[Worker],
    publisher: Publisher,
    stopping: asyncio.Event,
    grace: float,
) -> None:
    tasks = [asyncio.create_task(consumer.run(), name=consumer.family.name) for consumer in consumers]
    tasks += [asyncio.create_task(other.run(), name=type(other).__name__) for other in others]
    signs = [asyncio.create_task(stopping.wait()), asyncio.create_task(publisher.failed())]
    await asyncio.wait([*tasks, *signs], return_when=asyncio.FIRST_COMPLETED)
    stop_was_requested = stopping.is_set()
    stopping.set()
    await asyncio.wait(tasks, timeout=grace)
    for task in (*tasks, *signs):
        task.cancel()
    for result in await asyncio.gather(*tasks, *signs, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
    if not stop_was_requested:
        raise UnexpectedExit("a consumer ended without a stop request")


async def _refuse_when_behind(database: Database, stopping: asyncio.Event) -> None:
    missing = await _when_available(lambda: pending(database), stopping)
    if missing:
        names = ", ".join(migration.name for migration in missing)
        raise PendingMigrations(f"the database lacks {names}: run `stockhook migrate` first")


async def _when_available(call: Callable[[], Awaitable[T]], stopping: asyncio.Event) -> T:
    """Repeat the call until the database is available.

    Raises:
        ShutdownRequested
    """

    def say(reason: str) -> None:
        log.warning("database.unavailable", reason=reason)

    calling = asyncio.create_task(
        retry_until_available(call, DatabaseUnavailable, stopping, longest_pause=2, say=say)
    )
    stop_requested = asyncio.create_task(stopping.wait())
    await asyncio.wait([calling, stop_requested], return_when=asyncio.FIRST_COMPLETED)
    stop_requested.cancel()
    if not calling.done():
        # Nothing is in flight yet: there is no answer to wait for.
        calling.cancel()
        await asyncio.wait([calling])
        raise ShutdownRequested
    return calling.result()
