"""One family's queue, from its subscription to its acks."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import TypeVar, assert_never

import structlog

from consumers.registry import AnyFamily
from worker.amqp.channel import Channel, Message
from worker.amqp.connection import Broker, reconnect_forever
from worker.amqp.errors import BrokerUnavailable, Unroutable
from worker.amqp.publisher import Publisher, publish_until_confirmed
from worker.amqp.tap import Delivery
from worker.amqp.topology import (
    Topology,
    dead_queue,
    family_queue,
    step_name,
    topology,
)
from worker.amqp.watchdog import LONGEST_HOLD_SECONDS, WATCHDOG_SECONDS, watch_channel
from worker.config.settings import Settings
from worker.observability import metrics
from worker.observability.backoff import (
    DeadlineExceeded,
    ShutdownRequested,
    retry_until_available,
    sleep_unless_stopping,
)
from worker.observability.errors import safe_summary
from worker.observability.failpoints import failpoint
from worker.pipeline.batch import (
    Applied,
    Arrived,
    BatchFailed,
    Decoded,
    Duplicate,
    Failed,
    Invalid,
    InvalidDelivery,
    Item,
    Report,
    Suspect,
    attempt_of,
    copy_to_publish,
    decode,
    handle,
    identity_of,
    record_failures,
    requeue_copy,
)
from worker.pipeline.buffer import PrefetchBuffer
from worker.pipeline.circuit_breaker import CircuitBreaker
from worker.pipeline.isolation import is_suspect
from worker.postgres import poison as suspects
from worker.postgres.pool import Database, DatabaseUnavailable, blameless

log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class Consumer:
    """Takes what has arrived, has it handled, settles it.

    In trouble (the database is away, the breaker is open) it holds what it has and probes. It is careful,
    and holds one delivery at a time, while deliveries come again: should one of them be what killed its
    consumer, no other is in flight then. `alone` is held by the one family of a process that tries such a
    suspect.
    """

    family: AnyFamily
    settings: Settings
    broker: Broker
    database: Database
    publisher: Publisher
    stopping: asyncio.Event
    alone: asyncio.Lock
    enabled_actions: frozenset[str] = frozenset()
    _is_isolating: bool = True
    _breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    _window: PrefetchBuffer = field(init=False)
    _in_flight: list[Arrived] = field(default_factory=list)
    _trouble: str | None = "connecting"
    _host: str = ""

    def __post_init__(self) -> None:
        self._window = PrefetchBuffer(self._arrived)

    async def run(self) -> None:
        """Consume until we stop, whatever happens to broker and database meanwhile."""
        self._measure()
        await reconnect_forever(self.family.name, self._session, self.stopping, self._note_trouble)

    async def check(self) -> str | None:
        """What keeps this family from working, if anything does."""
        if self._breaker.is_open:
            return "everything fails: trying one event at a time"
        return self._trouble

    def _note_trouble(self, reason: str) -> None:
        self._trouble = f"not connected: {reason}"

    @property
    def is_behind(self) -> bool:
        """Whether more waits here than one batch takes."""
        return len(self._window) >= self.settings.batch_size

    def _measure(self) -> None:
        """Have the gauges say how we are, whenever they are read."""
        name = self.family.name
        metrics.begin_family(name, map(step_name, self.settings.delays))
        metrics.CIRCUIT_OPEN.labels(name).set_function(lambda: self._breaker.is_open)
        metrics.IN_FLIGHT.labels(name).set_function(lambda: len(self._window) + len(self._in_flight))

    @property
    def _queue(self) -> str:
        return family_queue(self.family.name)

    @property
    def _topology(self) -> Topology:
        return topology(self.settings.delays, [self.family.name])

    async def _session(self) -> None:
        """One subscription, from its beginning to its end."""
        await retry_until_available(self.database.ping, DatabaseUnavailable, self.stopping, longest_pause=2)
        window = self._window = PrefetchBuffer(self._arrived)
        self._in_flight = []

        async with self.broker.connection() as link:
            self._host = link.host
            channel = await link.channel_with(self._topology, declares=self.settings.declare_topology)
            channel.on_cancelled(window.close)
            is_prefetch_one = await self._subscribe(channel, window)
            watch = asyncio.create_task(self._close_on_end(channel, window))
            # What cannot be settled, because the connection is lost or we stop, comes again.
            with suppress(BrokerUnavailable, Unroutable, ShutdownRequested):
                await self._work(channel, window, is_prefetch_one)
            watch.cancel()
            self._trouble = "connecting"
            self._window, self._in_flight = PrefetchBuffer(self._arrived), []

    def _arrived(self, delivery: Delivery) -> Arrived:
        """Never raises: it is called by the event loop, where an error would be nobody's."""
        return Suspect(delivery) if is_suspect(delivery) else self._decode(delivery)

    def _decode(self, delivery: Delivery) -> Decoded | InvalidDelivery:
        """Never raises: a message that fails in an unforeseen way is no event, and ends no process."""
        try:
            return decode(self.family, delivery)
        except Exception as error:
            log.exception("delivery.unreadable", family=self.family.name)
            return InvalidDelivery(delivery, f"unreadable: {safe_summary(error)}")

    async def _subscribe(self, channel: Channel, window: PrefetchBuffer) -> bool:
        """Have deliveries put into the window; say whether one at a time."""
        prefetch = 1 if self._is_isolating else self.settings.prefetch
        await channel.consume(self._queue, self.family.name, prefetch, window.put)
        self._trouble = None
        log.info(
            "consumer.started",
            family=self.family.name,
            queue=self._queue,
            prefetch=prefetch,
            host=self._host,
        )
        return self._is_isolating

    async def _work(self, channel: Channel, window: PrefetchBuffer, is_prefetch_one: bool) -> None:
        """Work until the window closes, or a suspect comes among others."""
        while batch := await window.take(self.settings.batch_size):
            failpoint("received")
            is_alone = isinstance(batch[0], Suspect)
            if is_alone and not is_prefetch_one:
                self._is_isolating = True
                return
            self._in_flight = batch
            ends_narrowness = is_prefetch_one and not is_alone
            if ends_narrowness:
                # While this one is in flight nothing else is on its way to us: what is when a subscription
                # ends comes again, as a suspect.
                await channel.cancel_consumers()
            try:
                await self._try_alone(channel, batch) if is_alone else await self._work_off(channel, batch)
            except DeadlineExceeded:
                await self._requeue(channel, window)
                return
            self._is_isolating = self._breaker.is_open or is_alone
            if ends_narrowness:
                is_prefetch_one = await self._subscribe(channel, window)

    async def _try_alone(self, channel: Channel, batch: Sequence[Arrived]) -> None:
        """One suspect of this process at a time, so that none is suspected for what another does."""
        async with self.alone:
            try:
                await self._work_off(channel, batch)
            except (BrokerUnavailable, DeadlineExceeded, ShutdownRequested):
                # It ends here for other reasons than the event's.
                with suppress(DatabaseUnavailable):
                    await self._clear_suspect_once(batch[0].delivery)
                raise

    async def _close_on_end(self, channel: Channel, window: PrefetchBuffer) -> None:
        """Close the window when we stop, or when the subscription is lost, be it silently."""
        is_subscribed = partial(channel.is_subscribed, self._queue)
        try:
            await watch_channel(channel, self.stopping, WATCHDOG_SECONDS, is_subscribed)
            if not self.stopping.is_set():
                log.warning("subscription.lost", family=self.family.name)
        finally:
            window.close()
        if channel.is_open:
            with suppress(BrokerUnavailable):
                await channel.cancel_consumers()

    async def _work_off(self, channel: Channel, batch: Sequence[Arrived]) -> None:
        """Apply a batch as one; where that fails, each half of it, down to the guilty."""
        await self._apply(channel, [await self._decode_suspect(item) for item in batch])

    async def _apply(self, channel: Channel, items: Sequence[Item]) -> None:
        if self._breaker.is_open:
            await self._work_off_singly(channel, items)
            return
        began = monotonic()
        try:
            report = await self._handle_when_possible(items)
        except BatchFailed:
            middle = len(items) // 2
            await self._apply(channel, items[:middle])
            await self._apply(channel, items[middle:])
            return
        await self._settle(channel, items, report, began)

    async def _work_off_singly(self, channel: Channel, items: Sequence[Item]) -> None:
        """One after the other, with pauses for as long as it seems that everything fails."""
        trouble_since = monotonic()
        for item in items:
            if self._breaker.is_open:
                log.warning("breaker.open", family=self.family.name, pause=self._breaker.pause_seconds)
                await sleep_unless_stopping(self._breaker.pause_seconds, self.stopping)
                if self.stopping.is_set():
                    raise ShutdownRequested
                if monotonic() - trouble_since > LONGEST_HOLD_SECONDS:
                    raise DeadlineExceeded
            began = monotonic()
            await self._settle(channel, [item], await self._handle_when_possible([item]), began)

    async def _decode_suspect(self, item: Arrived) -> Item:
        """Before a suspect is even read, it is noted that it is being tried."""
        if not isinstance(item, Suspect):
            return item
        delivery = item.delivery
        suspect_id, at = identity_of(delivery), datetime.now(UTC)
        tries = await self._patiently(
            lambda: blameless(suspects.note_try(self.database, self.family.name, suspect_id, at))
        )
        if tries > suspects.TRIES:
            return InvalidDelivery(delivery, f"ended its consumer {suspects.TRIES} times when handled alone")
        return self._decode(delivery)

    async def _handle_when_possible(self, items: Sequence[Item]) -> Report:
        """Raises BatchFailed, and as `_patiently` does."""
        tells, asks = self.settings.changes, self.enabled_actions
        return await self._patiently(
            lambda: handle(
                self.family, self.database, items, tells=tells, asks=asks, tolerance=self.settings.tolerance
            )
        )

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """An outage of the database costs no attempt: wait for its end and do the same again.

        Raises:
            Stopped
            DeadlineExceeded
        """
        try:
            return await call()
        except DatabaseUnavailable as outage:
            log.warning("family.paused", family=self.family.name, reason=str(outage))
        self._trouble = "waiting for the database"

        async def again() -> T:
            await self.database.ping()
            return await call()

        with metrics.PAUSED.labels(self.family.name).track_inprogress():
            result = await retry_until_available(
                again,
                DatabaseUnavailable,
                self.stopping,
                longest_pause=2,
                at_most=LONGEST_HOLD_SECONDS,
            )
        self._trouble = None
        log.info("family.resumed", family=self.family.name)
        return result

    async def _requeue(self, channel: Channel, window: PrefetchBuffer) -> None:
        """Put what is in flight at the end of the queue, as if it had just arrived.

        Merely letting go of it would count towards the broker's delivery limit.
        """
        await channel.cancel_consumers()
        held = [*self._in_flight, *window.take_all()]
        copies = [requeue_copy(self.family.name, item.delivery) for item in held]
        await asyncio.gather(
            *(publish_until_confirmed(self.publisher, copy, self.stopping, channel) for copy in copies)
        )
        await channel.ack_up_to(held[-1].delivery.tag)
        log.warning("family.gave_back", family=self.family.name, deliveries=len(held))

    async def _settle(self, channel: Channel, items: Sequence[Item], report: Report, began: float) -> None:
        """See to each delivery's future; the ack is the last thing that happens to it."""
        now, delays = datetime.now(UTC), self.settings.delays
        copies = [
            copy_to_publish(self.family.name, item, outcome, delays, now)
            for item, outcome in zip(items, report.outcomes, strict=True)
        ]
        if any(copies):
            await self._publish_copies(channel, items, copies)
        for item in items:
            if is_suspect(item.delivery):
                await self._clear_suspect(item.delivery)
        await channel.ack_up_to(items[-1].delivery.tag)
        failpoint("acked")
        del self._in_flight[: len(items)]
        self._count(report)
        self._say(items, report, monotonic() - began)

    async def _publish_copies(
        self, channel: Channel, items: Sequence[Item], copies: Sequence[Message | None]
    ) -> None:
        """Publish the copies, then record where they went."""
        for item, copy in zip(items, copies, strict=True):
            if copy is not None:
                log.warning(
                    "delivery.failed",
                    family=self.family.name,
                    type=copy.type,
                    event_id=copy.headers.get("x-event-id"),
                    attempt=attempt_of(item),
                    to=copy.routing_key,
                    reason=copy.headers["x-reason"],
                )
        await asyncio.gather(
            *(self._publish_when_possible(channel, copy) for copy in copies if copy is not None)
        )
        failpoint("retry_published")
        await self._patiently(lambda: blameless(record_failures(self.family, self.database, items, copies)))

    async def _publish_when_possible(self, channel: Channel, copy: Message) -> None:
        """Publish until confirmed; a copy too many is harmless, since the event log dedupes."""
        await publish_until_confirmed(self.publisher, copy, self.stopping, channel)
        if copy.routing_key == dead_queue(self.family.name):
            metrics.DEAD.labels(self.family.name).inc()
        else:
            metrics.RETRIED.labels(self.family.name, copy.routing_key.rsplit(".", 1)[1]).inc()

    async def _clear_suspect(self, delivery: Delivery) -> None:
        await self._patiently(lambda: self._clear_suspect_once(delivery))

    async def _clear_suspect_once(self, delivery: Delivery) -> None:
        """Raises: DatabaseUnavailable."""
        await blameless(suspects.clear(self.database, identity_of(delivery)))

    def _count(self, report: Report) -> None:
        """What is broken by itself says nothing about the rest."""
        for outcome in report.outcomes:
            match outcome:
                case Applied() | Duplicate():
                    self._breaker.succeeded()
                case Failed():
                    self._breaker.failed()
                case Invalid():
                    pass
                case unreachable:
                    assert_never(unreachable)

    def _say(self, items: Sequence[Item], report: Report, seconds: float) -> None:
        """One line and one set of metrics a batch."""
        name = self.family.name
        kinds = Counter(type(outcome) for outcome in report.outcomes)
        received = [item.candidate.envelope.received_at for item in items if isinstance(item, Decoded)]
        metrics.APPLIED.labels(name).inc(kinds[Applied])
        metrics.DUPLICATES.labels(name).inc(kinds[Duplicate])
        metrics.STALE.labels(name).inc(report.stale)
        metrics.FINDINGS.labels(name).inc(report.findings)
        metrics.IMPLAUSIBLE_TIMESTAMPS.labels(name).inc(report.implausible)
        metrics.BATCH_EVENTS.labels(name).observe(len(items))
        metrics.BATCH_SECONDS.labels(name).observe(seconds)
        if received:
            age = (datetime.now(UTC) - min(received)).total_seconds()
            metrics.EVENT_AGE_SECONDS.labels(name).observe(age)
        log.info(
            "batch.settled",
            family=name,
            events=len(items),
            applied=kinds[Applied],
            duplicates=kinds[Duplicate],
            stale=report.stale,
            findings=report.findings,
            failed=kinds[Failed],
            invalid=kinds[Invalid],
            milliseconds=round(seconds * 1000, 1),
        )
