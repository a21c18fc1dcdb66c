"""Consumers: connect, take what has arrived, hand it to the batch, settle, drain on a signal."""

import asyncio
import os
import signal
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic

import structlog

from consumers.registry import FAMILIES, AnyFamily
from worker import metrics
from worker.batch import (
    Applied,
    Decoded,
    Duplicate,
    Failed,
    Invalid,
    Outcome,
    Report,
    Undecodable,
    attempt_of,
    copy_to_publish,
    decode,
    handle,
)
from worker.broker import (
    Broker,
    BrokerUnavailable,
    Channel,
    Delivery,
    Message,
    Publisher,
    Unroutable,
    keep_connected,
)
from worker.database import Database, DatabaseUnavailable
from worker.migrations import Migration, pending
from worker.ops import serve_ops
from worker.patience import RetryError, patient
from worker.settings import Settings
from worker.topology import Topology, dead_queue, family_queue, topology

log = structlog.get_logger(__name__)


class DatabaseBehind(Exception):
    """Migrations are missing. The text says what to type."""


@dataclass(slots=True)
class Window:
    """What was delivered and not yet taken; decoded on arrival, while Postgres works on a batch."""

    _items: deque[Decoded | Undecodable] = field(default_factory=deque)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _closed: bool = False

    def put(self, item: Decoded | Undecodable) -> None:
        self._items.append(item)
        self._changed.set()

    def close(self) -> None:
        """Give out nothing more."""
        self._closed = True
        self._changed.set()

    async def take(self, limit: int) -> list[Decoded | Undecodable]:
        """What has arrived, `limit` at most; waits for the first; empty once closed."""
        while not self._items and not self._closed:
            self._changed.clear()
            await self._changed.wait()
        if self._closed:
            return []
        return [self._items.popleft() for _ in range(min(limit, len(self._items)))]


@dataclass(slots=True)
class Consumer:
    """One family's queue, from its subscription to its acks."""

    family: AnyFamily
    settings: Settings
    broker: Broker
    database: Database
    publisher: Publisher
    stopping: asyncio.Event
    _trouble: str | None = "connecting"

    async def run(self) -> None:
        """Consume until we stop, whatever happens to broker and database meanwhile."""
        await keep_connected(self.family.name, self._session, self.stopping)

    async def check(self) -> str | None:
        """What keeps this family from working, if anything does."""
        return self._trouble

    @property
    def _topology(self) -> Topology:
        return topology(self.settings.delays, [self.family.name])

    async def _session(self) -> None:
        window = Window()

        def receive(delivery: Delivery) -> None:
            window.put(decode(self.family, delivery))

        async with self.broker.connection() as link:
            channel = await link.channel()
            await channel.declare(self._topology)
            channel.on_cancelled(window.close)
            queue = family_queue(self.family.name)
            await channel.consume(queue, self.family.name, self.settings.prefetch, receive)
            self._trouble = None
            log.info("consumer.started", family=self.family.name, queue=queue)
            watch = asyncio.create_task(self._close_on_end(channel, window))
            # What cannot be settled, because the connection is lost or we stop, comes again.
            with suppress(BrokerUnavailable, RetryError):
                while batch := await window.take(self.settings.batch_size):
                    await self._work_off(channel, batch)
            watch.cancel()
            self._trouble = "connecting"

    async def _close_on_end(self, channel: Channel, window: Window) -> None:
        """Close the window when the channel is lost or we stop; what is in it comes again."""
        ends = [
            asyncio.ensure_future(channel.wait_closed()),
            asyncio.ensure_future(self.stopping.wait()),
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            window.close()
            for end in ends:
                end.cancel()
        if channel.is_open:
            with suppress(BrokerUnavailable):
                await channel.cancel_consumers()

    async def _work_off(self, channel: Channel, batch: Sequence[Decoded | Undecodable]) -> None:
        """Handle a batch and settle it; the ack is the last thing that happens to a delivery."""
        began = monotonic()
        report = await self._handle_when_possible(batch)
        copies = self._copies(batch, report.outcomes)
        if copies:
            await asyncio.gather(*map(self._publish_when_possible, copies))
        await channel.ack_up_to(batch[-1].delivery.tag)
        self._record(batch, report, monotonic() - began)

    async def _handle_when_possible(self, batch: Sequence[Decoded | Undecodable]) -> Report:
        """An outage of the database costs no attempt: wait for its end and do the same again."""
        while True:
            try:
                return await handle(self.family, self.database, batch)
            except DatabaseUnavailable as error:
                await self._wait_for_database(str(error))

    async def _wait_for_database(self, reason: str) -> None:
        log.warning("family.paused", family=self.family.name, reason=reason)
        self._trouble = "waiting for the database"
        with metrics.PAUSED.labels(self.family.name).track_inprogress():
            await patient(DatabaseUnavailable, self.stopping, longest=2)(self.database.ping)
        self._trouble = None
        log.info("family.resumed", family=self.family.name)

    def _copies(self, batch: Sequence[Decoded | Undecodable], outcomes: Sequence[Outcome]) -> list[Message]:
        now = datetime.now(UTC)
        copies = []
        for item, outcome in zip(batch, outcomes, strict=True):
            copy = copy_to_publish(self.family.name, item, outcome, self.settings.delays, now)
            if copy is not None:
                copies.append(copy)
                log.warning(
                    "delivery.failed",
                    family=self.family.name,
                    type=copy.type,
                    event_id=copy.headers.get("x-event-id"),
                    attempt=attempt_of(item),
                    to=copy.routing_key,
                    reason=copy.headers["x-reason"],
                )
        return copies

    async def _publish_when_possible(self, copy: Message) -> None:
        """Publish until confirmed; a copy too many is harmless, since the event log dedupes."""
        nowhere = (BrokerUnavailable, Unroutable)
        await patient(nowhere, self.stopping, longest=5)(self.publisher.publish, copy)
        if copy.routing_key == dead_queue(self.family.name):
            metrics.DEAD.labels(self.family.name).inc()
        else:
            step = copy.routing_key.rsplit(".", 1)[1]
            metrics.RETRIED.labels(self.family.name, step).inc()

    def _record(self, batch: Sequence[Decoded | Undecodable], report: Report, seconds: float) -> None:
        name = self.family.name
        applied = sum(isinstance(outcome, Applied) for outcome in report.outcomes)
        duplicates = sum(isinstance(outcome, Duplicate) for outcome in report.outcomes)
        failed = sum(isinstance(outcome, Failed) for outcome in report.outcomes)
        invalid = sum(isinstance(outcome, Invalid) for outcome in report.outcomes)
        received = [item.candidate.envelope.received_at for item in batch if isinstance(item, Decoded)]
        metrics.APPLIED.labels(name).inc(applied)
        metrics.DUPLICATES.labels(name).inc(duplicates)
        metrics.STALE.labels(name).inc(report.stale)
        metrics.FINDINGS.labels(name).inc(report.findings)
        metrics.BATCH_EVENTS.labels(name).observe(len(batch))
        metrics.BATCH_SECONDS.labels(name).observe(seconds)
        if received:
            age = (datetime.now(UTC) - min(received)).total_seconds()
            metrics.EVENT_AGE_SECONDS.labels(name).observe(age)
        log.info(
            "batch.settled",
            family=name,
            events=len(batch),
            applied=applied,
            duplicates=duplicates,
            stale=report.stale,
            findings=report.findings,
            failed=failed,
            invalid=invalid,
            milliseconds=round(seconds * 1000, 1),
        )


async def consume(settings: Settings, names: Sequence[str]) -> None:
    """Consume these families until SIGTERM or SIGINT; then finish what is in hand.

    Raises:
        DatabaseBehind
        TopologyMismatch
    """
    stopping = stop_on_signals()
    url = settings.amqp_url.get_secret_value()
    async with AsyncExitStack() as stack:
        database = Database(settings.database_url.get_secret_value(), len(names) + 1, "stockhook/consumer")
        stack.push_async_callback(database.close)
        publisher = await stack.enter_async_context(
            Publisher(
                Broker(url, "consumer-publisher"),
                topology(settings.delays, names),
                settings.publish_timeout,
            )
        )
        broker = Broker(url, "consumer")
        consumers = [
            Consumer(FAMILIES[name], settings, broker, database, publisher, stopping) for name in names
        ]
        checks = {consumer.family.name: consumer.check for consumer in consumers}
        checks["publisher"] = publisher.check
        await stack.enter_async_context(serve_ops(settings.ops_host, settings.ops_port, checks))
        with suppress(RetryError):
            await _refuse_when_behind(database, stopping)
            await _run(consumers, publisher, stopping, settings.shutdown_grace)
    log.info("consumers.stopped")


async def _run(
    consumers: Sequence[Consumer], publisher: Publisher, stopping: asyncio.Event, grace: float
) -> None:
    tasks = [asyncio.create_task(consumer.run(), name=consumer.family.name) for consumer in consumers]
    signs = [asyncio.create_task(stopping.wait()), asyncio.create_task(publisher.failed())]
    await asyncio.wait([*tasks, *signs], return_when=asyncio.FIRST_COMPLETED)
    stopping.set()
    await asyncio.wait(tasks, timeout=grace)
    for task in (*tasks, *signs):
        task.cancel()
    for result in await asyncio.gather(*tasks, *signs, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


async def _refuse_when_behind(database: Database, stopping: asyncio.Event) -> None:
    def say(reason: str) -> None:
        log.warning("database.unavailable", reason=reason)

    missing: list[Migration] = await patient(DatabaseUnavailable, stopping, longest=2, say=say)(
        pending, database
    )
    if missing:
        names = ", ".join(migration.name for migration in missing)
        raise DatabaseBehind(f"the database lacks {names}: type `stockhook migrate` first")


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets; a second signal ends the process at once."""
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return stopping
