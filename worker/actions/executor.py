"""Performs the actions in their queue, and settles each delivery according to the outcome."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import TypeVar
from uuid import UUID

import structlog

from schemas.trace_context import read_context
from worker.actions.attempt import Attempt, UnreadableRequest, perform, read_request
from worker.actions.registry import KINDS
from worker.actions.settlement import Settlement, settlement_of
from worker.actions.types import Failed, Outcome, OutcomeUnknown
from worker.amqp.channel import Message
from worker.amqp.connection import Broker
from worker.amqp.message_spans import came_over, processed
from worker.amqp.publisher import Publisher
from worker.amqp.queue_set import QueueSet
from worker.amqp.subscription import SESSION_ENDS, Session, Subscription
from worker.amqp.tap import Delivery
from worker.amqp.topology import ACTIONS, QUARANTINE, actions_topology
from worker.config.settings import Settings
from worker.marketplaces.clients import Clients, open_clients
from worker.observability import metrics, tracing
from worker.observability.failpoints import failpoint
from worker.observability.tracing import Kind
from worker.outbox import actions as table
from worker.outbox.actions import ClaimedAction, StartedElsewhere
from worker.pipeline.decode import attempt_in
from worker.postgres.durability import commit_durably
from worker.postgres.failures import DatabaseUnavailable, TransactionConflict
from worker.postgres.pool import Database

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Actions in flight. The queue has a single active consumer, so this is the limit of all processes together,
# and rate limits of a marketplace hold however many processes run.
PREFETCH = 8


@dataclass(slots=True)
class Executor:
    """Performs several actions concurrently and acknowledges each delivery by itself.

    An action that may be repeated is performed at least once; another one at most once, or its outcome is
    unknown. An outage of broker or database costs no attempt. At shutdown, actions that have started are
    finished.
    """

    settings: Settings
    broker: Broker
    database: Database
    publisher: Publisher
    stopping: asyncio.Event
    subscription: Subscription[Delivery] = field(init=False)
    _queues: QueueSet = field(init=False)
    _tasks: dict[UUID | None, asyncio.Task[None]] = field(default_factory=dict)
    _attempts: dict[UUID, Attempt] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._queues = QueueSet.of(ACTIONS, self.settings.delays)
        consumed = [self._queues.main]
        if self.settings.keep_dead_letters:
            consumed.append(self._queues.dead)
        self.subscription = Subscription(
            ACTIONS,
            consumed,
            actions_topology(self._queues),
            self.settings.declare_topology,
            self.broker,
            self.publisher,
            self.stopping,
            prerequisite=self.database.ping,
            outages=(DatabaseUnavailable, TransactionConflict, StartedElsewhere),
            read=lambda delivery: delivery,
            prefetch=lambda: PREFETCH,
        )

    async def run(self) -> None:
        """Perform actions until shutdown, however often broker and database are unavailable."""
        async with open_clients(self.settings) as clients:
            try:
                await self.subscription.run(partial(self._work, clients))
            finally:
                for task in self._tasks.values():
                    task.cancel()
                await self._finish_all()

    async def _work(self, clients: Clients, session: Session[Delivery]) -> None:
        while deliveries := await session.receive(PREFETCH):
            for delivery in deliveries:
                self._start(clients, session, delivery)
        if self.stopping.is_set():
            await self._finish_started()
        elif session.has_reached_hold_limit:
            # Each task acknowledges its delivery, or leaves it to be requeued.
            await self._finish_all()

    def _start(self, clients: Clients, session: Session[Delivery], delivery: Delivery) -> None:
        action_id = _action_id(delivery)
        earlier = self._tasks.get(action_id)

        async def settle_in_turn() -> None:
            # The same action may come again over a new connection. Its first task records the outcome before.
            if earlier is not None:
                await asyncio.wait([earlier])
            try:
                await self._settle(clients, session, action_id, delivery)
            except SESSION_ENDS:
                session.end()

        def forget(task: asyncio.Task[None]) -> None:
            if self._tasks.get(action_id) is task:
                del self._tasks[action_id]
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("action.crashed", action_id=str(action_id), exc_info=error)
                session.end()

        task = asyncio.create_task(settle_in_turn(), name=f"action {action_id}")
        self._tasks[action_id] = task
        task.add_done_callback(forget)

    async def _finish_started(self) -> None:
        """Cancel actions that have not started: their deliveries go to the executor that runs next."""
        for action_id, task in list(self._tasks.items()):
            attempt = None if action_id is None else self._attempts.get(action_id)
            if attempt is None or not attempt.has_started:
                task.cancel()
        await self._finish_all()

    async def _finish_all(self) -> None:
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _settle(
        self, clients: Clients, session: Session[Delivery], action_id: UUID | None, delivery: Delivery
    ) -> None:
        """Perform an action or note a dead one, publish a copy if there is one, then acknowledge."""
        if action_id is None:
            log.error("action.unreadable", to=QUARANTINE)
            copy: Message | None = _quarantined(delivery)
        elif delivery.queue == self._queues.dead:
            copy = None
            await self._note_dead(session, action_id, delivery)
        else:
            with _processing(delivery, action_id):
                copy = await self._until_available(
                    session, lambda: self._perform(clients, session, action_id, delivery)
                )
        if copy is not None:
            await session.publish(copy)
        failpoint("action_settled")
        await session.ack(delivery)

    async def _note_dead(self, session: Session[Delivery], action_id: UUID, delivery: Delivery) -> None:
        """Record that the broker dead-lettered an action. A copy of ours has a reason, and is recorded."""
        if "x-reason" not in delivery.headers:
            await self._until_available(session, lambda: self._give_up(action_id))

    async def _give_up(self, action_id: UUID) -> None:
        async with self.database.transaction() as connection:
            await table.give_up(connection, action_id)
            await commit_durably(connection)
        log.error("action.given_up", action_id=str(action_id))

    async def _perform(
        self, clients: Clients, session: Session[Delivery], action_id: UUID, delivery: Delivery
    ) -> Message | None:
        """Perform an action that is not done, record the outcome, and return the copy to publish.

        Raises:
            DatabaseUnavailable, TransactionConflict, StartedElsewhere: Before the action began; try again.
            DeadlineExceeded, ShutdownRequested: The outcome could not be recorded.
        """
        attempt = attempt_in(delivery)
        async with self.database.transaction() as connection:
            claimed = await table.claim(connection, action_id, attempt)
            # The row, and an outcome because of which nothing is done, must be durable.
            await commit_durably(connection)
        if claimed is None:
            log.info("action.settled_before", action_id=str(action_id))
            return None
        began = monotonic()
        try:
            outcome = await self._outcome(clients, claimed)
            seconds = monotonic() - began
            settlement = settlement_of(self._queues, delivery, outcome)
            await self._until_available(session, lambda: self._record(action_id, settlement))
        finally:
            self._attempts.pop(action_id, None)
        _log_attempt(claimed, attempt, settlement, seconds)
        note_attempt(claimed.kind, settlement)
        return settlement.copy

    async def _outcome(self, clients: Clients, claimed: ClaimedAction) -> Outcome:
        """Raises as `perform` does."""
        if claimed.state == "unknown":
            return OutcomeUnknown(table.ENDED_UNDER_WAY)
        kind = KINDS.get(claimed.kind)
        if kind is None:
            return Failed(f"this version does not support actions of the kind {claimed.kind}")
        try:
            request = read_request(kind, claimed, self.settings.encryptor)
        except UnreadableRequest as error:
            return Failed(str(error))
        attempt = Attempt(claimed.action_id, claimed.subject, request, clients, self.database)
        self._attempts[claimed.action_id] = attempt
        return await perform(kind, attempt)

    async def _record(self, action_id: UUID, settlement: Settlement) -> None:
        async with self.database.transaction() as connection:
            # Also if an earlier try, whose answer was lost, has recorded it.
            await commit_durably(connection)
            if settlement.state == "due":
                await table.postpone(connection, action_id, settlement.details)
            else:
                await table.finish(connection, action_id, settlement.state, settlement.details)

    async def _until_available(self, session: Session[Delivery], call: Callable[[], Awaitable[T]]) -> T:
        """Raises as `Session.retry_until_available` does."""
        return await session.retry_until_available(
            call, lambda reason: log.warning("actions.waiting", reason=reason)
        )


@contextmanager
def _processing(delivery: Delivery, action_id: UUID) -> Iterator[None]:
    """The span of an attempt; the calls of the marketplace's API in it have their own."""
    tracer = tracing.active()
    if tracer is None:
        yield
        return
    name, attributes = processed(delivery.queue, came_over(delivery.queue, None, returned=True))
    attributes["messaging.message.id"] = str(action_id)
    attributes["stockhook.attempt"] = attempt_in(delivery)
    with tracer.span(name, Kind.CONSUMER, attributes, parent=read_context(delivery.headers)):
        yield


def note_attempt(kind: str, settlement: Settlement) -> None:
    """Set the result of an attempt in its span, which fails unless the action is done."""
    span = tracing.current()
    if span is None:
        return
    span.set("stockhook.action_kind", kind)
    span.set("stockhook.result", settlement.result)
    if settlement.state != "done":
        span.fail(settlement.result)


def _log_attempt(claimed: ClaimedAction, attempt: int, settlement: Settlement, seconds: float) -> None:
    copy = settlement.copy
    metrics.ACTIONS.labels(claimed.kind, settlement.result).inc()
    metrics.ACTION_SECONDS.labels(claimed.kind).observe(seconds)
    write = log.info if settlement.state == "done" else log.warning
    write(
        settlement.log_event,
        action_id=str(claimed.action_id),
        kind=claimed.kind,
        attempt=attempt,
        to=None if copy is None else copy.routing_key,
        reason=settlement.details.get("reason"),
        milliseconds=round(seconds * 1000, 1),
    )


def _action_id(delivery: Delivery) -> UUID | None:
    """The id in the headers; None for a message that is not an action."""
    try:
        return UUID(str(delivery.headers.get("x-action-id")))
    except ValueError:
        return None


def _quarantined(delivery: Delivery) -> Message:
    """The copy of a message that is not an action: the table has no row for it."""
    reason = "not an action: its x-action-id is missing or cannot be read"
    return Message(QUARANTINE, "", delivery.type, {"x-reason": reason}, delivery.body)
