"""One measurement of the whole pipeline: broker, database and ops ports. What cannot be read has a reason."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from consumers.registry import FAMILIES
from worker.amqp.channel import QueueDepth
from worker.amqp.connection import Broker, BrokerConnection
from worker.amqp.errors import BrokerUnavailable
from worker.amqp.queue_set import QueueSet
from worker.amqp.topology import QUARANTINE
from worker.change_feed.backlog import ChangeCounts, change_counts, known_webhooks
from worker.config.settings import Settings
from worker.config.subscribers import origin_of
from worker.dead_letters.store import waiting_by_origin
from worker.observability.errors import safe_summary
from worker.postgres.errors import PostgresError, UndefinedTableError
from worker.postgres.failures import DatabaseUnavailable, TransactionConflict
from worker.postgres.pauses import Pause, read_all
from worker.postgres.pool import Database
from worker.tools.audit import SourceAccount, accounts
from worker.tools.ops_ports import NoAnswer, Process, read_processes
from worker.tools.status import last_logged

BROKER_SECONDS = 5.0

# The ingest's counters of requests and of refusals.
REFUSAL_SERIES = (
    "stockhook_received_total",
    "stockhook_gateway_unsigned_total",
    "stockhook_http_refused_total",
    "stockhook_unknown_paths_total",
    "stockhook_http_connections_refused_total",
)

# What the console shows of the metrics of a process.
SERIES = (
    *REFUSAL_SERIES,
    "stockhook_spool_open",
    "stockhook_spool_events",
    "stockhook_spool_bytes",
    "stockhook_spool_limit_bytes",
    "stockhook_spool_age_seconds",
    "stockhook_in_flight",
    "stockhook_circuit_open",
    "stockhook_waiting_for_database",
    "stockhook_event_age_seconds_bucket",
    "stockhook_webhooks_total",
    "stockhook_webhook_answers_total",
    "stockhook_webhook_answered_timestamp_seconds",
    "stockhook_webhook_circuit_open",
)


@dataclass(frozen=True, slots=True)
class Stored:
    """Of each family: sequence numbers, the last logged event, dead letters, a user's pause, changes."""

    accounts: Sequence[SourceAccount] = ()
    last_logged: Mapping[str, datetime] = field(default_factory=dict)
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    pauses: Mapping[str, Pause] = field(default_factory=dict)
    changes: Sequence[ChangeCounts] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`queues` and `stored` are None if they could not be read; then there is a reason.

    `subscribers` are the names of subscribers over HTTP, as last read.
    """

    at: datetime
    queues: Mapping[str, QueueDepth | None] | None
    stored: Stored | None
    processes: Sequence[Process | NoAnswer]
    broker_trouble: str | None = None
    database_trouble: str | None = None
    subscribers: Sequence[str] = ()

    @property
    def answering(self) -> list[Process]:
        return [process for process in self.processes if isinstance(process, Process)]

    @property
    def silent(self) -> list[NoAnswer]:
        return [process for process in self.processes if isinstance(process, NoAnswer)]

    def ready(self, queue: str) -> int | None:
        """Messages that wait in a queue; None if the queue is missing or could not be read."""
        depth = self._depth(queue)
        return None if depth is None else depth.ready

    def consumers(self, queue: str) -> int | None:
        """None if the queue is missing or could not be read."""
        depth = self._depth(queue)
        return None if depth is None else depth.consumers

    def dead(self, origin: str, queue: str) -> int | None:
        """Dead letters of an origin, in their queue and in the table; None if one of them cannot be read."""
        queued = self.ready(queue)
        if queued is None or self.stored is None:
            return None
        return queued + self.stored.dead_letters.get(origin, 0)

    def _depth(self, queue: str) -> QueueDepth | None:
        return None if self.queues is None else self.queues.get(queue)


class SnapshotReader:
    """Takes snapshots over one connection to the broker, which it opens again after a failure."""

    def __init__(self, broker: Broker, database: Database, settings: Settings) -> None:
        self._broker = broker
        self._database = database
        self._ops_urls = settings.ops_urls
        self._delays = settings.delays
        self._configured = settings.webhook_names
        self._subscribers: Sequence[str] | None = None
        self._queue_names = [QUARANTINE]
        for family in FAMILIES:
            self._queue_names += QueueSet.of(family, settings.delays).names
        self._stack = AsyncExitStack()
        self._connection: BrokerConnection | None = None

    async def close(self) -> None:
        """Close the connection to the broker."""
        self._connection = None
        # A connection that is lost cannot be closed properly.
        with suppress(Exception):
            async with asyncio.timeout(BROKER_SECONDS):
                await self._stack.aclose()

    async def take(self) -> Snapshot:
        """Read everything at the same time. Nothing is raised for a service that cannot be reached."""
        reading = asyncio.create_task(self._stored())
        if self._subscribers is None:
            # Their names are in the database. Later, a new one has its depths in the second snapshot.
            await reading
        (queues, broker_trouble), (stored, database_trouble), processes = await asyncio.gather(
            self._queues(), reading, read_processes(self._ops_urls, SERIES)
        )
        return Snapshot(
            datetime.now(UTC),
            queues,
            stored,
            processes,
            broker_trouble,
            database_trouble,
            self._subscribers or self._configured,
        )

    async def _queues(self) -> tuple[Mapping[str, QueueDepth | None] | None, str | None]:
        try:
            async with asyncio.timeout(BROKER_SECONDS):
                if self._connection is None:
                    self._stack = AsyncExitStack()
                    self._connection = await self._stack.enter_async_context(self._broker.connection())
                return await self._connection.depths(self._all_queue_names()), None
        except (BrokerUnavailable, TimeoutError) as error:
            await self.close()
            return None, str(error) or "no answer in time"

    def _all_queue_names(self) -> list[str]:
        subscribers = self._subscribers or self._configured
        return self._queue_names + [
            queue for name in subscribers for queue in QueueSet.of(origin_of(name), self._delays).names
        ]

    async def _stored(self) -> tuple[Stored | None, str | None]:
        try:
            known = await accounts(self._database)
            async with self._database.connection() as connection:
                stored = Stored(
                    known,
                    await last_logged(connection),
                    await waiting_by_origin(connection),
                    await read_all(connection),
                    await change_counts(connection),
                )
                self._subscribers = sorted({*await known_webhooks(connection), *self._configured})
        except (DatabaseUnavailable, TransactionConflict) as error:
            return None, str(error)
        except UndefinedTableError:
            return None, "not migrated: run `stockhook migrate`"
        except PostgresError as error:
            return None, f"failed ({safe_summary(error)})"
        return stored, None
