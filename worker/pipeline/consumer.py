"""One family's queue, from its subscription to its acks."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import TypeVar, assert_never

import structlog

from consumers.registry import AnyFamily
from schemas.trace_context import TraceContext
from worker.amqp.channel import Message
from worker.amqp.connection import Broker
from worker.amqp.publisher import Publisher
from worker.amqp.queue_set import QueueSet
from worker.amqp.subscription import Session, Subscription
from worker.amqp.switch import Switch
from worker.amqp.tap import Delivery
from worker.amqp.topology import topology
from worker.config.settings import Settings
from worker.observability import metrics, tracing
from worker.observability.failpoints import failpoint
from worker.observability.ops_server import Intended
from worker.observability.tracing import exemplar_of
from worker.pipeline.batch_log import BatchLog, log_failure
from worker.pipeline.batch_trace import BatchTrace, batch_trace
from worker.pipeline.circuit_breaker import CircuitBreaker
from worker.pipeline.decode import InvalidDelivery, Item, PossiblyPoisonous, Received, decode_any
from worker.pipeline.disposition import disposition_of
from worker.pipeline.isolation import Isolation, is_possibly_poisonous
from worker.pipeline.outcome import Applied, BatchFailed, Duplicate, Failed, Invalid, Report
from worker.pipeline.transaction import apply_batch, record_copies
from worker.pipeline.turns import Turn, Turns
from worker.postgres import poison
from worker.postgres.durability import Flusher
from worker.postgres.failures import DatabaseUnavailable, blameless
from worker.postgres.pool import Database

log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AppliedBatch:
    items: Sequence[Item]
    report: Report
    began: float


@dataclass(slots=True)
class Consumer:
    """Applies the events of one family in batches and settles each delivery.

    A batch is settled after a flush has made it durable; meanwhile the next ones are applied.
    While the database is unavailable it holds its deliveries and probes. While the circuit breaker is open
    it tries one event at a time. In isolation mode, at the start and while deliveries are lost repeatedly,
    it prefetches a single delivery. While a user's pause switches it off, it holds nothing.
    """

    family: AnyFamily
    settings: Settings
    broker: Broker
    database: Database
    flusher: Flusher
    publisher: Publisher
    stopping: asyncio.Event
    isolation_lock: asyncio.Lock
    enabled_actions: frozenset[str] = frozenset()
    switch: Switch = field(default_factory=Switch)
    subscription: Subscription[Received] = field(init=False)
    _queues: QueueSet = field(init=False)
    _isolation: Isolation = field(init=False)
    _log: BatchLog = field(init=False)
    _circuit_breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    _waiting_for_database: int = 0

    def __post_init__(self) -> None:
        self._queues = QueueSet.of(self.family.name, self.settings.delays)
        self._isolation = Isolation(self.family.name, self.database, self.isolation_lock)
        self._log = BatchLog(self.family.name)
        self.subscription = Subscription(
            self.family.name,
            [self._queues.main],
            topology(self.settings.delays, [self.family.name]),
            self.settings.declare_topology,
            self.broker,
            self.publisher,
            self.stopping,
            prerequisite=self.database.ping,
            outages=(DatabaseUnavailable,),
            read=self._read,
            prefetch=lambda: 1 if self._isolation.is_active else self.settings.prefetch,
            is_batch_of_one=lambda item: isinstance(item, PossiblyPoisonous),
            switch=self.switch,
        )

    def _read(self, delivery: Delivery) -> Received:
        if is_possibly_poisonous(delivery):
            return PossiblyPoisonous(delivery)
        return decode_any(self.family, delivery)

    async def run(self) -> None:
        """Consume until shutdown, however often broker and database are unavailable."""
        name = self.family.name
        metrics.initialize_family(name, (retry.step for retry in self._queues.retries))
        metrics.CIRCUIT_OPEN.labels(name).set_function(
            lambda: self.switch.is_on and self._circuit_breaker.is_open
        )
        metrics.IN_FLIGHT.labels(name).set_function(lambda: self.subscription.in_flight)
        metrics.WAITING_FOR_DATABASE.labels(name).set_function(lambda: self._waiting_for_database > 0)
        await self.subscription.run(self._work)

    async def check(self) -> str | Intended | None:
        """Why this family is not ready, or which user paused it; None if it consumes."""
        if self.switch.reason is not None:
            return Intended(self.switch.reason)
        if self._circuit_breaker.is_open:
            return "everything fails: trying one event at a time"
        return "waiting for the database" if self._waiting_for_database else self.subscription.unready_reason

    @property
    def is_behind(self) -> bool:
        """Whether more deliveries wait here than one batch takes."""
        session = self.subscription.session
        return session is not None and session.buffered >= self.settings.batch_size

    async def _work(self, session: Session[Received]) -> None:
        """Work until the session ends, or until a possibly poisonous message arrives among others."""
        prefetches_one = self._isolation.is_active
        async with Turns(session) as turns:
            while batch := await session.receive(self.settings.batch_size):
                failpoint("received")
                possibly_poisonous = isinstance(batch[0], PossiblyPoisonous)
                if possibly_poisonous and not prefetches_one:
                    self._isolation.is_active = True
                    return
                await turns.begin(partial(self._process, session, batch))
                self._isolation.is_active = self._circuit_breaker.is_open or possibly_poisonous
                if prefetches_one and not self._isolation.is_active:
                    prefetches_one = False
                    # The consumer that delivers one at a time stays, because it may hold a delivery.
                    await session.subscribe()

    async def _process(self, session: Session[Received], batch: Sequence[Received], turn: Turn) -> None:
        first = batch[0]
        if isinstance(first, PossiblyPoisonous):
            await turn.until_earlier_are_settled()
            async with self._isolation.handling(first.delivery):
                with self._trace(batch) as trace:
                    item = await self._decode_suspect(session, first)
                    await self._apply_and_settle(session, [item], trace)
            return
        items = [item for item in batch if not isinstance(item, PossiblyPoisonous)]
        with self._trace(batch) as trace:
            try:
                applied = await self._apply_early(session, items, trace)
            except BatchFailed:
                await turn.until_earlier_are_settled()
                await self._apply_halves(session, items, trace)
                return
            if applied is not None:
                turn.let_next_begin()
            await turn.until_earlier_are_settled()
            await self._apply_and_settle(session, items, trace, applied)

    def _trace(self, batch: Sequence[Received]) -> AbstractContextManager[BatchTrace | None]:
        tracer = tracing.active()
        return nullcontext() if tracer is None else batch_trace(tracer, self._queues.main, batch)

    async def _decode_suspect(self, session: Session[Received], suspect: PossiblyPoisonous) -> Item:
        """Decode it after this try is committed, unless it ended its consumer too often."""
        delivery, at = suspect.delivery, datetime.now(UTC)
        if await self._until_available(session, lambda: self._isolation.note_try(delivery, at)):
            return decode_any(self.family, delivery)
        return InvalidDelivery(delivery, f"ended its consumer {poison.TRIES} times in isolation")

    async def _apply_early(
        self, session: Session[Received], items: Sequence[Item], trace: BatchTrace | None
    ) -> AppliedBatch | None:
        """Apply the items before earlier batches are settled; None if that must wait.

        Raises as `_until_available` does, and BatchFailed.
        """
        if self._circuit_breaker.is_open:
            return None
        return await self._until_available(session, partial(self._apply_once, items, trace, monotonic()))

    async def _apply_and_settle(
        self,
        session: Session[Received],
        items: Sequence[Item],
        trace: BatchTrace | None,
        applied: AppliedBatch | None = None,
    ) -> None:
        """Settle the items once they are applied durably; if that fails, each half, down to one event.

        They may be `applied` already. Then they are applied again only if that was lost.
        """
        if applied is None and self._circuit_breaker.is_open:
            await self._settle_singly(session, items, trace)
            return
        try:
            durable = await self._apply_durably(session, items, trace, applied)
        except BatchFailed:
            await self._apply_halves(session, items, trace)
        else:
            await self._settle(session, durable, trace)

    async def _apply_halves(
        self, session: Session[Received], items: Sequence[Item], trace: BatchTrace | None
    ) -> None:
        middle = len(items) // 2
        await self._apply_and_settle(session, items[:middle], trace)
        await self._apply_and_settle(session, items[middle:], trace)

    async def _settle_singly(
        self, session: Session[Received], items: Sequence[Item], trace: BatchTrace | None
    ) -> None:
        for item in items:
            if self._circuit_breaker.is_open:
                pause = self._circuit_breaker.pause_seconds
                log.warning("circuit_breaker.paused", family=self.family.name, pause=pause)
                await session.pause(pause)
            await self._settle(session, await self._apply_durably(session, [item], trace, None), trace)

    async def _apply_durably(
        self,
        session: Session[Received],
        items: Sequence[Item],
        trace: BatchTrace | None,
        applied: AppliedBatch | None,
    ) -> AppliedBatch:
        """Flush what was `applied`; apply it again if a crash of the database may have undone it.

        Raises as `_until_available` does, and BatchFailed.
        """
        unflushed = [] if applied is None else [applied]
        began = monotonic() if applied is None else applied.began

        async def apply_and_flush() -> AppliedBatch:
            batch = unflushed.pop() if unflushed else await self._apply_once(items, trace, began)
            if batch.report.durable is not None:
                await batch.report.durable
            return batch

        durable = await self._until_available(session, apply_and_flush)
        failpoint("flushed")
        return durable

    async def _apply_once(
        self, items: Sequence[Item], trace: BatchTrace | None, began: float
    ) -> AppliedBatch:
        """Raises as `apply_batch` does."""
        with nullcontext() if trace is None else trace.applying(len(items)):
            report = await apply_batch(
                self.family,
                self.flusher,
                items,
                record_changes=self.settings.changes,
                enabled_actions=self.enabled_actions,
                tolerance=self.settings.tolerance,
            )
        _count_outcomes(self._circuit_breaker, report)
        return AppliedBatch(items, report, began)

    async def _until_available(self, session: Session[Received], call: Callable[[], Awaitable[T]]) -> T:
        """Repeat the call while the database is unavailable: an outage costs no attempt.

        Raises as `Session.retry_until_available` does.
        """
        try:
            return await call()
        except DatabaseUnavailable as outage:
            if not self._waiting_for_database:
                log.warning("family.waiting_for_database", family=self.family.name, reason=str(outage))

        async def ping_and_call() -> T:
            await self.database.ping()
            return await call()

        self._waiting_for_database += 1
        try:
            result = await session.retry_until_available(ping_and_call)
        finally:
            self._waiting_for_database -= 1
        if not self._waiting_for_database:
            log.info("family.database_back", family=self.family.name)
        return result

    async def _settle(
        self, session: Session[Received], batch: AppliedBatch, trace: BatchTrace | None
    ) -> None:
        """Publish and record the copies, then acknowledge: the ack is the last step."""
        items, report, began = batch.items, batch.report, batch.began
        now = datetime.now(UTC)
        copies = [
            disposition_of(self._queues, item, outcome, now)
            for item, outcome in zip(items, report.outcomes, strict=True)
        ]
        contexts: Sequence[TraceContext | None] = [None] * len(items)
        if trace is not None:
            settled = zip(items, report.outcomes, copies, strict=True)
            contexts = [trace.settled(*each, began) for each in settled]
        if any(copies):
            await self._publish_copies(session, items, copies, contexts)
        for delivery in (item.delivery for item in items):
            if is_possibly_poisonous(delivery):
                await self._until_available(session, partial(self._isolation.clear, delivery))
        await session.ack_up_to(items[-1].delivery)
        # The ack is written in the next turn of the event loop.
        asyncio.get_running_loop().call_soon(failpoint, "acked")
        exemplar = None if trace is None else exemplar_of(trace.span.context)
        self._log.write(items, report, monotonic() - began, exemplar)

    async def _publish_copies(
        self,
        session: Session[Received],
        items: Sequence[Item],
        copies: Sequence[Message | None],
        contexts: Sequence[TraceContext | None],
    ) -> None:
        """Publish the copies, then record where they went.

        The event log recognizes a copy that was published twice.
        """
        failed = [
            (item, copy, context)
            for item, copy, context in zip(items, copies, contexts, strict=True)
            if copy is not None
        ]
        for item, copy, context in failed:
            log_failure(self.family.name, item, copy, context)
        await asyncio.gather(*(_publish_copy(session, self._queues, copy) for _, copy, _ in failed))
        failpoint("retry_published")
        await self._until_available(
            session, lambda: blameless(record_copies(self.family, self.database, items, copies))
        )


def _count_outcomes(circuit_breaker: CircuitBreaker, report: Report) -> None:
    """An invalid delivery changes nothing: its cause is the message."""
    for outcome in report.outcomes:
        match outcome:
            case Applied() | Duplicate():
                circuit_breaker.succeeded()
            case Failed():
                circuit_breaker.failed()
            case Invalid():
                pass
            case unreachable:
                assert_never(unreachable)


async def _publish_copy(session: Session[Received], queues: QueueSet, copy: Message) -> None:
    await session.publish(copy)
    if copy.routing_key == queues.dead:
        metrics.DEAD.labels(queues.origin).inc()
    else:
        step = next(retry.step for retry in queues.retries if retry.name == copy.routing_key)
        metrics.RETRIED.labels(queues.origin, step).inc()
