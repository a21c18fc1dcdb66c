"""Takes actions from their queue, performs each, and sees to what becomes of it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import Any, TypeVar, assert_never
from uuid import UUID

import structlog
from pydantic import ValidationError

from consumers.family import Connection
from worker.actions.registry import KINDS
from worker.actions.types import (
    AnyKind,
    Denied,
    Done,
    Failed,
    InDoubt,
    NotNeeded,
    Outcome,
    outcome_of,
)
from worker.amqp.channel import Channel, Message
from worker.amqp.connection import Broker, reconnect_forever
from worker.amqp.errors import BrokerUnavailable, Unroutable
from worker.amqp.publisher import Publisher, publish_until_confirmed
from worker.amqp.tap import Delivery
from worker.amqp.topology import (
    ACTIONS,
    QUARANTINE,
    RETURN,
    actions_topology,
    dead_queue,
    family_queue,
    retry_queue,
)
from worker.amqp.watchdog import LONGEST_HOLD_SECONDS, WATCHDOG_SECONDS, watch_channel
from worker.config.settings import Settings
from worker.intake.encryption import CannotUnseal
from worker.intake.encryption import opened as unsealed
from worker.marketplaces.clients import Clients, opened
from worker.observability import metrics
from worker.observability.backoff import DeadlineExceeded, ShutdownRequested, retry_until_available
from worker.observability.failpoints import failpoint
from worker.outbox import actions as table
from worker.outbox.actions import BegunElsewhere, Taken
from worker.pipeline.retry_schedule import Exhausted, Retry, after_failure
from worker.postgres.pool import Database, DatabaseUnavailable, TransactionConflict

log = structlog.get_logger(__name__)

T = TypeVar("T")

# At a time, of all processes: the queue has a single active consumer, so that the limits that we keep for
# a marketplace are kept however many processes run.
PREFETCH = 8

# Every call has a deadline of its own, and is repeated a few times at most.
PERFORM_SECONDS = 300.0

REASON_LIMIT = 1000

NOBODYS = UUID(int=0)


@dataclass(slots=True)
class Attempt:
    """What a kind's performer gets, as `worker.actions.types.Attempt` says."""

    action_id: UUID
    subject: str
    request: Any
    clients: Clients
    database: Database
    has_begun: bool = False

    async def begin(self, is_needed: Callable[[Connection], Awaitable[bool]] | None = None) -> bool:
        async with self.database.transaction() as connection:
            await table.lock_subject(connection, self.subject)
            if is_needed is not None and not await is_needed(connection):
                return False
            await table.begin(connection, self.action_id)
        self.has_begun = True
        failpoint("action_begun")
        return True


@dataclass(slots=True)
class Executor:
    """At least once for what may be repeated; at most once, or with an unknown outcome, for what may not.

    An outage of broker or database costs no attempt. When we stop, what has begun is waited for.
    """

    settings: Settings
    broker: Broker
    database: Database
    publisher: Publisher
    stopping: asyncio.Event
    _in_flight: dict[UUID, asyncio.Task[None]] = field(default_factory=dict)
    _attempts: dict[UUID, Attempt] = field(default_factory=dict)

    async def run(self) -> None:
        """Perform until we stop, whatever happens to broker and database meanwhile."""
        async with opened(self.settings) as clients:
            try:
                await reconnect_forever(ACTIONS, partial(self._session, clients), self.stopping)
            finally:
                for task in self._in_flight.values():
                    task.cancel()
                await asyncio.gather(*self._in_flight.values(), return_exceptions=True)

    async def _session(self, clients: Clients) -> None:
        arrived: asyncio.Queue[Delivery | None] = asyncio.Queue()
        async with self.broker.connection() as link:
            channel = await link.channel_with(
                actions_topology(self.settings.delays), declares=self.settings.declare_topology
            )
            channel.on_cancelled(partial(arrived.put_nowait, None))
            await channel.consume(family_queue(ACTIONS), ACTIONS, PREFETCH, arrived.put_nowait)
            if self.settings.keep_dead_letters:
                put = partial(self._put_to_rest, channel, arrived)
                await channel.consume(dead_queue(ACTIONS), f"dead.{ACTIONS}", PREFETCH, put)
            watch = asyncio.create_task(self._end_when_lost(channel, arrived))
            while (delivery := await arrived.get()) is not None:
                self._take_in_hand(clients, channel, delivery, arrived)
            watch.cancel()
            if self.stopping.is_set():
                await self._finish_what_has_begun()

    async def _end_when_lost(self, channel: Channel, arrived: asyncio.Queue[Delivery | None]) -> None:
        try:
            is_subscribed = partial(channel.is_subscribed, family_queue(ACTIONS))
            await watch_channel(channel, self.stopping, WATCHDOG_SECONDS, is_subscribed)
        finally:
            arrived.put_nowait(None)

    def _take_in_hand(
        self, clients: Clients, channel: Channel, delivery: Delivery, arrived: asyncio.Queue[Delivery | None]
    ) -> None:
        action_id = _action_id(delivery)
        self._start(action_id, arrived, partial(self._see_to, clients, action_id, channel, delivery))

    def _put_to_rest(
        self, channel: Channel, arrived: asyncio.Queue[Delivery | None], delivery: Delivery
    ) -> None:
        """Of a dead letter the table has all; it is not to lie in its queue when somebody has seen to it."""
        action_id = _action_id(delivery)
        self._start(action_id, arrived, partial(self._note_dead, action_id, channel, delivery))

    def _start(
        self, action_id: UUID, arrived: asyncio.Queue[Delivery | None], work: Callable[[], Awaitable[None]]
    ) -> None:
        before = self._in_flight.get(action_id)

        async def in_turn() -> None:
            # The same delivered again, over another connection: by then the first has said what came of it.
            if before is not None:
                await asyncio.wait([before])
            try:
                await work()
            except (BrokerUnavailable, Unroutable, ShutdownRequested):
                # What is not acknowledged comes again, over the next connection.
                arrived.put_nowait(None)

        def ended(task: asyncio.Task[None]) -> None:
            if self._in_flight.get(action_id) is task:
                del self._in_flight[action_id]
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("action.unsettled", action_id=str(action_id), exc_info=error)
                arrived.put_nowait(None)

        task = asyncio.create_task(in_turn(), name=f"action {action_id}")
        self._in_flight[action_id] = task
        task.add_done_callback(ended)

    async def _finish_what_has_begun(self) -> None:
        """The rest comes again, to whoever performs next."""
        for action_id, task in list(self._in_flight.items()):
            attempt = self._attempts.get(action_id)
            if attempt is None or not attempt.has_begun:
                task.cancel()
        await asyncio.gather(*self._in_flight.values(), return_exceptions=True)

    async def _see_to(self, clients: Clients, action_id: UUID, channel: Channel, delivery: Delivery) -> None:
        """Perform it if it is still to be done; the ack is the last thing that happens to the delivery."""
        if _is_foreign(delivery):
            await self._quarantine(channel, delivery)
            return
        try:
            copy = await self._patiently(lambda: self._perform(clients, action_id, delivery))
        except DeadlineExceeded:
            # Merely letting go of it would count towards the broker's delivery limit.
            copy = _same_again(delivery, family_queue(ACTIONS))
            log.warning("action.given_back", action_id=str(action_id))
        if copy is not None:
            await publish_until_confirmed(self.publisher, copy, self.stopping, channel)
        failpoint("action_settled")
        await channel.ack(delivery.tag)

    async def _note_dead(self, action_id: UUID, channel: Channel, delivery: Delivery) -> None:
        if _is_foreign(delivery):
            await self._quarantine(channel, delivery)
            return
        # One of ours says why, and was written down before it was published.
        if "x-reason" not in delivery.headers:
            try:
                await self._patiently(lambda: self._give_up(action_id))
            except DeadlineExceeded:
                copy = _same_again(delivery, dead_queue(ACTIONS))
                await publish_until_confirmed(self.publisher, copy, self.stopping, channel)
        await channel.ack(delivery.tag)

    async def _quarantine(self, channel: Channel, delivery: Delivery) -> None:
        """A message that is not an action has no row in the table: keep it, with its bytes, for people."""
        reason = "not an action: its x-action-id is missing or cannot be read"
        copy = Message(QUARANTINE, "", delivery.type, {"x-reason": reason}, delivery.body)
        await publish_until_confirmed(self.publisher, copy, self.stopping, channel)
        log.error("action.unreadable", to=QUARANTINE)
        await channel.ack(delivery.tag)

    async def _give_up(self, action_id: UUID) -> None:
        async with self.database.transaction() as connection:
            await table.give_up(connection, action_id)
        log.error("action.given_up", action_id=str(action_id))

    async def _perform(self, clients: Clients, action_id: UUID, delivery: Delivery) -> Message | None:
        """Where the delivery goes on, if it does not end here.

        Raises:
            DatabaseUnavailable: Nothing was begun; again from the beginning.
            BegunElsewhere: The same.
        """
        attempt_number = _attempt_of(delivery)
        async with self.database.transaction() as connection:
            taken = await table.take(connection, action_id, attempt_number)
        if taken is None:
            log.info("action.settled_before", action_id=str(action_id))
            return None
        began = monotonic()
        try:
            if taken.state == "unknown":
                outcome: Outcome = InDoubt(table.ENDED_UNDER_WAY)
            else:
                outcome = await self._outcome(clients, taken)
            return await self._settle(taken, delivery, outcome, attempt_number, monotonic() - began)
        finally:
            self._attempts.pop(action_id, None)

    async def _outcome(self, clients: Clients, taken: Taken) -> Outcome:
        """Raises: DatabaseUnavailable, TransactionConflict, BegunElsewhere."""
        kind = KINDS.get(taken.kind)
        if kind is None:
            return Failed(f"this version knows no actions of the kind {taken.kind}")
        try:
            request = self._read(kind, taken)
        except (ValidationError, CannotUnseal) as error:
            return Failed(_words(error))
        attempt = Attempt(taken.action_id, taken.subject, request, clients, self.database)
        self._attempts[taken.action_id] = attempt
        try:
            async with asyncio.timeout(PERFORM_SECONDS):
                outcome: Outcome = await kind.perform(attempt)
        except (DatabaseUnavailable, TransactionConflict, BegunElsewhere) as error:
            if attempt.has_begun:
                return outcome_of(error, has_begun=True)
            raise
        except Exception as error:
            outcome = outcome_of(error, has_begun=attempt.has_begun)
        failpoint("action_performed")
        return outcome

    def _read(self, kind: AnyKind, taken: Taken) -> Any:
        """Raises: ValidationError, CannotUnseal."""
        body = unsealed(taken.request, self.settings.sealer) if taken.is_encrypted else taken.request
        return kind.request.model_validate_json(body)

    async def _settle(
        self, taken: Taken, delivery: Delivery, outcome: Outcome, attempt: int, seconds: float
    ) -> Message | None:
        """Write down what came of it, before anything is published or acknowledged."""
        copy = None
        match outcome:
            case Done(said):
                result, state, told = "done", "done", dict(said)
            case NotNeeded(why):
                result, state, told = "not_needed", "done", {"not_needed": why}
            case Denied(reason):
                result, state, told = "refused", "refused", {"reason": reason}
            case InDoubt(reason):
                result, state, told = "unknown", "unknown", {"reason": reason}
            case Failed(reason, retry_after):
                told = {"reason": reason}
                match next_step(attempt, self.settings.delays, retry_after):
                    case Retry(delay, next_attempt):
                        result, state = "retried", "due"
                        copy = _copy(delivery, retry_queue(ACTIONS, delay), next_attempt, reason)
                    case Exhausted():
                        result, state = "failed", "failed"
                        copy = _copy(delivery, dead_queue(ACTIONS), attempt, reason)
                    case unreachable:
                        assert_never(unreachable)
            case unreachable:
                assert_never(unreachable)
        await self._patiently(lambda: self._write(taken.action_id, state, told))
        metrics.ACTIONS.labels(taken.kind, result).inc()
        metrics.ACTION_SECONDS.labels(taken.kind).observe(seconds)
        say = log.info if result in ("done", "not_needed") else log.warning
        say(
            f"action.{result}",
            action_id=str(taken.action_id),
            kind=taken.kind,
            attempt=attempt,
            to=None if copy is None else copy.routing_key,
            reason=told.get("reason"),
            milliseconds=round(seconds * 1000, 1),
        )
        return copy

    async def _write(self, action_id: UUID, state: str, told: dict[str, object]) -> None:
        async with self.database.transaction() as connection:
            if state == "due":
                await table.put_off(connection, action_id, told)
            else:
                await table.finish(connection, action_id, state, told)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Raises: Stopped, DeadlineExceeded."""
        return await retry_until_available(
            call,
            (DatabaseUnavailable, TransactionConflict, BegunElsewhere),
            self.stopping,
            longest_pause=2,
            at_most=LONGEST_HOLD_SECONDS,
            say=lambda reason: log.warning("actions.waiting", reason=reason),
        )


def next_step(
    attempt: int, delays: tuple[timedelta, ...], retry_after: timedelta | None
) -> Retry | Exhausted:
    """The next retry delay; a longer one where that is asked for and there is one, else the longest."""
    step = after_failure(attempt, delays)
    if retry_after is None or isinstance(step, Exhausted):
        return step
    enough = (delay for delay in delays if delay >= max(step.delay, retry_after))
    return Retry(next(enough, delays[-1]), step.attempt)


def _same_again(delivery: Delivery, queue: str) -> Message:
    headers: dict[str, str | int] = {
        "x-action-id": str(delivery.headers.get("x-action-id", "")),
        "x-attempt": _attempt_of(delivery),
    }
    return Message(RETURN, queue, delivery.type, headers, delivery.body)


def _copy(delivery: Delivery, queue: str, attempt: int, reason: str) -> Message:
    headers: dict[str, str | int] = {
        "x-action-id": str(delivery.headers.get("x-action-id", "")),
        "x-attempt": attempt,
        "x-reason": reason[:REASON_LIMIT],
    }
    return Message(RETURN, queue, delivery.type, headers, delivery.body)


def _action_id(delivery: Delivery) -> UUID:
    """One that nobody has, where it is unreadable."""
    try:
        return UUID(str(delivery.headers.get("x-action-id")))
    except ValueError:
        return NOBODYS


def _is_foreign(delivery: Delivery) -> bool:
    return _action_id(delivery) == NOBODYS


def _attempt_of(delivery: Delivery) -> int:
    told = delivery.headers.get("x-attempt")
    return told if isinstance(told, int) and told > 0 else 1


def _words(error: ValidationError | CannotUnseal) -> str:
    if isinstance(error, CannotUnseal):
        return str(error)
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return "its request is unreadable: " + "; ".join(".".join(map(str, fault["loc"])) for fault in faults)
