"""The loop of every consumer: families, actions, dead letters and outgoing webhooks.

wait for the prerequisite -> connect -> ensure the topology -> subscribe -> handler: receive, work, ack last
^                                                                                                         |
+---------- session ends: connection lost, hold limit reached, switched off, handler returned, shutdown --+

The broker counts each delivery that is released without an ack, and dead-letters a message at the queue's
delivery limit. A handler that has to wait therefore calls `Session.retry_until_available` or `Session.pause`.
When the oldest delivery has been held for LONGEST_HOLD_SECONDS, both raise DeadlineExceeded; the session then
requeues every delivery that it holds, as a new message. The next session begins with the prerequisite, so
nothing is held during the rest of an outage.

A subscription has a session only while its `Switch` is on. When it is switched off, the handler finishes what
it processes, or is cancelled after FINISH_SECONDS, and the session requeues the rest in the same way.

A session is replaced when it is LONGEST_SESSION_SECONDS old. When the leader of a quorum queue changes,
RabbitMQ can lose a delivery or an ack between two of its nodes (rabbitmq-server: issue 15473, which is open,
and pull request 14589, which is in 4.2). The message then belongs to a channel that does not know it, and
stays there until that channel is closed.

A consumer is cancelled while it holds a delivery only if nothing else helps. If its node is cut off from the
queue's leader meanwhile, RabbitMQ never returns that delivery: `rabbit_fifo` suspects only consumers that are
not cancelled, and so does not notice the end of this one's channel. Another leader does (measured with
3.10.8; the remedy is in deploy/runbooks/StockhookEventsMissing.md).
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, Generic, TypeVar

import structlog

from worker.amqp.buffer import PrefetchBuffer
from worker.amqp.channel import Channel, Message
from worker.amqp.codec import JSON
from worker.amqp.connection import Broker, reconnect_forever
from worker.amqp.errors import BrokerUnavailable, Unroutable
from worker.amqp.publisher import Publisher, publish_until_confirmed
from worker.amqp.switch import Switch
from worker.amqp.tap import Delivery
from worker.amqp.topology import Topology, route_to
from worker.amqp.watchdog import watch_channel
from worker.observability.backoff import (
    DeadlineExceeded,
    ShutdownRequested,
    retry_until_available,
    sleep_unless_stopping,
)

log = structlog.get_logger(__name__)

T = TypeVar("T")
R = TypeVar("R")

# Below the broker's consumer timeout (30 minutes by default), which would count towards the delivery limit.
LONGEST_HOLD_SECONDS = 600.0

# A message that belongs to a channel that does not know it waits this long at most.
LONGEST_SESSION_SECONDS = 300.0
# Not all sessions are replaced at the same time.
SHORTEST_SESSION_FRACTION = 0.8

# How long a handler may go on with what it processes when the subscription is switched off.
FINISH_SECONDS = 0.5

# How long a session at its age limit waits for a moment in which it holds nothing.
LONGEST_IDLE_WAIT_SECONDS = 30.0

# The time in which the broker must answer whether a subscription exists.
WATCHDOG_SECONDS = 5.0

LONGEST_PAUSE_SECONDS = 2.0

# Headers that the broker adds to a message that it dead-letters or redelivers.
BROKER_HEADERS = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")


class SwitchedOff(Exception):
    """The subscription was switched off during a pause."""


# A session ends with these; each delivery that it holds is delivered again.
SESSION_ENDS = (BrokerUnavailable, Unroutable, ShutdownRequested, DeadlineExceeded, SwitchedOff)


def requeue_copy(
    delivery: Delivery, content_type: str = JSON, headers: Mapping[str, str | int] | None = None
) -> Message:
    """The message that puts a delivery at the end of its queue, as if it had just arrived.

    It has the headers of the delivery without those of the broker; `headers` replace or add some.
    """
    exchange, routing_key = route_to(delivery.queue)
    own_headers = {
        name: value
        for name, value in delivery.headers.items()
        if isinstance(value, str | int) and not name.startswith(BROKER_HEADERS)
    }
    return Message(
        exchange, routing_key, delivery.type, {**own_headers, **(headers or {})}, delivery.body, content_type
    )


@dataclass(slots=True)
class Subscription(Generic[T]):
    """What to consume, what must be available for that, and how deliveries are read.

    `prerequisite` is called before each session until it raises none of the `outages`, and so is the call
    that a handler gives to `Session.retry_until_available`. `read` and `is_batch_of_one` are those of
    `PrefetchBuffer`; `read` must not raise. `prefetch` is the number of deliveries of each queue that may be
    in flight. `unready_reason` says why nothing is consumed; None if it is.
    """

    name: str
    queues: Sequence[str]
    topology: Topology
    declares_topology: bool
    broker: Broker
    publisher: Publisher
    stopping: asyncio.Event
    prerequisite: Callable[[], Awaitable[object]]
    outages: tuple[type[Exception], ...]
    read: Callable[[Delivery], T]
    prefetch: Callable[[], int]
    is_batch_of_one: Callable[[T], bool] = lambda _item: False
    copy_to_requeue: Callable[[Delivery], Message] = requeue_copy
    switch: Switch = field(default_factory=Switch)
    unready_reason: str | None = "connecting"
    session: "Session[T] | None" = None

    async def run(self, handler: Callable[["Session[T]"], Awaitable[None]]) -> None:
        """Run sessions until shutdown, however often the connection or the prerequisite is lost.

        Raises:
            TopologyMismatch
        """
        await reconnect_forever(
            self.name, partial(self._run_session, handler), self.stopping, self._note_not_connected
        )

    def new_session(self, channel: Channel, host: str) -> "Session[T]":
        return Session(self, channel, host, PrefetchBuffer(self.read, self.is_batch_of_one))

    @property
    def in_flight(self) -> int:
        """The number of deliveries that are not acknowledged."""
        return 0 if self.session is None else self.session.in_flight

    def _note_not_connected(self, reason: str) -> None:
        self.unready_reason = f"not connected: {reason}"

    async def _run_session(self, handler: Callable[["Session[T]"], Awaitable[None]]) -> None:
        """Run a session, and the next one after a session that was switched off.

        To return would count as the early end of a session, and delay the next connection.
        """
        is_switched_off = True
        while is_switched_off:
            await self.switch.until_on(self.stopping)
            await retry_until_available(
                self.prerequisite, self.outages, self.stopping, longest_pause=LONGEST_PAUSE_SECONDS
            )
            async with self.broker.connection() as connection:
                channel = await connection.channel_with(self.topology, declares=self.declares_topology)
                session = self.session = self.new_session(channel, connection.host)
                channel.on_cancelled(session.end)
                try:
                    await session.subscribe()
                    await self._handle(session, handler)
                finally:
                    self.session = None
                    self.unready_reason = "connecting"
            is_switched_off = session.is_switched_off

    async def _handle(
        self, session: "Session[T]", handler: Callable[["Session[T]"], Awaitable[None]]
    ) -> None:
        tasks = [
            asyncio.create_task(task)
            for task in (session.watch(), session.end_when_old(), session.end_when_off())
        ]
        try:
            with suppress(*SESSION_ENDS):
                await handler(session)
            if session.has_reached_hold_limit or session.is_switched_off:
                with suppress(*SESSION_ENDS):
                    await session.requeue_held()
        finally:
            for task in tasks:
                task.cancel()


@dataclass(slots=True)
class Session(Generic[T]):
    """One connection of a subscription. `receive` returns nothing once it has ended."""

    subscription: Subscription[T]
    channel: Channel
    host: str
    _buffer: PrefetchBuffer[T]
    # Not acknowledged, in the order of arrival, each with the time when it arrived.
    _held: deque[tuple[float, Delivery]] = field(default_factory=deque)
    _acknowledged_all: asyncio.Event = field(default_factory=asyncio.Event)
    has_reached_hold_limit: bool = False
    is_switched_off: bool = False
    _is_ending: bool = False
    _works: set[asyncio.Task[None]] = field(default_factory=set)
    _is_cut_off: bool = False

    @property
    def in_flight(self) -> int:
        return len(self._held)

    @property
    def buffered(self) -> int:
        """The number of deliveries that `receive` has not returned yet."""
        return len(self._buffer)

    async def subscribe(self) -> None:
        """Start deliveries from all queues, unless the session has ended or will, or it is switched off.

        Call it again when the prefetch changes: consumers that may hold deliveries stay beside the new ones.

        Raises:
            BrokerUnavailable
        """
        if self._is_ending or self._buffer.is_closed or not self.subscription.switch.is_on:
            return
        subscription, prefetch = self.subscription, self.subscription.prefetch()
        for queue in subscription.queues:
            await self.channel.consume(queue, queue.removeprefix("stockhook."), prefetch, self._put)
        if self._is_ending:
            await self._stop_and_end()
            return
        subscription.unready_reason = None
        log.info("consumer.started", subscription=subscription.name, prefetch=prefetch, host=self.host)

    def _put(self, delivery: Delivery) -> None:
        self._held.append((monotonic(), delivery))
        self._buffer.put(delivery)

    async def stop_deliveries(self) -> None:
        """Cancel the consumers; what was delivered stays in flight. `subscribe` starts them again.

        Raises:
            BrokerUnavailable
        """
        await self.channel.cancel_consumers()

    async def receive(self, limit: int) -> list[T]:
        """Wait for deliveries and return up to `limit`; an empty list once the session has ended."""
        return await self._buffer.take(limit)

    def end(self) -> None:
        self._buffer.close()

    async def ack(self, delivery: Delivery) -> None:
        """Acknowledge only this delivery.

        Raises:
            BrokerUnavailable: It will be delivered again.
        """
        await self.channel.ack(delivery.tag)
        self._held = deque(held for held in self._held if held[1].tag != delivery.tag)
        self._note_if_nothing_is_held()

    async def ack_up_to(self, delivery: Delivery) -> None:
        """Acknowledge this delivery and all that arrived before it.

        Raises:
            BrokerUnavailable: They will be delivered again.
        """
        await self.channel.ack_up_to(delivery.tag)
        while self._held and self._held[0][1].tag <= delivery.tag:
            self._held.popleft()
        self._note_if_nothing_is_held()

    async def publish(self, message: Message) -> None:
        """Publish until confirmed. Raises as `publish_until_confirmed` does."""
        await publish_until_confirmed(
            self.subscription.publisher, message, self.subscription.stopping, self.channel
        )

    async def retry_until_available(
        self, call: Callable[[], Awaitable[R]], on_outage: Callable[[str], None] | None = None
    ) -> R:
        """Call again after an outage, until it succeeds. `on_outage` receives the reason each time.

        Raises:
            ShutdownRequested
            DeadlineExceeded: The hold limit is reached.
        """
        try:
            return await retry_until_available(
                call,
                self.subscription.outages,
                self.subscription.stopping,
                longest_pause=LONGEST_PAUSE_SECONDS,
                at_most=max(0.0, self._hold_seconds_left()),
                say=on_outage,
            )
        except DeadlineExceeded:
            self.has_reached_hold_limit = True
            raise

    async def pause(self, seconds: float) -> None:
        """Sleep.

        Raises:
            SwitchedOff
            ShutdownRequested, DeadlineExceeded: As `retry_until_available` does.
        """
        await sleep_unless_stopping(seconds, self.subscription.stopping)
        if self.subscription.stopping.is_set():
            raise ShutdownRequested
        if self.is_switched_off:
            raise SwitchedOff
        if self._hold_seconds_left() <= 0:
            self.has_reached_hold_limit = True
            raise DeadlineExceeded

    def _hold_seconds_left(self) -> float:
        arrived_at = self._held[0][0] if self._held else monotonic()
        return arrived_at + LONGEST_HOLD_SECONDS - monotonic()

    async def requeue_held(self) -> None:
        """Publish a copy of each delivery that is held to the end of its queue, then acknowledge all.

        Raises:
            BrokerUnavailable
            ShutdownRequested
        """
        if not self.channel.is_open:
            raise BrokerUnavailable("the channel is closed")
        await self.stop_deliveries()
        self.end()
        held = [delivery for _, delivery in self._held]
        if not held:
            return
        await asyncio.gather(*(self.publish(self.subscription.copy_to_requeue(each)) for each in held))
        await self.ack_up_to(held[-1])
        log.warning("deliveries.requeued", subscription=self.subscription.name, deliveries=len(held))

    async def watch(self) -> None:
        """End the session at shutdown, or when the subscription is lost, which the broker may not report."""
        stopping = self.subscription.stopping
        try:
            await watch_channel(self.channel, stopping, WATCHDOG_SECONDS, self._is_subscribed)
            if not stopping.is_set():
                log.warning("subscription.lost", subscription=self.subscription.name)
        finally:
            self.end()
        if self.channel.is_open:
            with suppress(BrokerUnavailable):
                await self.stop_deliveries()

    async def end_when_old(self) -> None:
        """End the session at its age limit, once everything that was delivered is acknowledged."""
        await asyncio.sleep(LONGEST_SESSION_SECONDS * random.uniform(SHORTEST_SESSION_FRACTION, 1))
        with suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_IDLE_WAIT_SECONDS):
                await self._until_nothing_is_held()
        self._is_ending = True
        with suppress(BrokerUnavailable):
            await self._stop_and_end()

    async def end_when_off(self) -> None:
        """End the session when the subscription is switched off, and cancel work that takes long."""
        await self.subscription.switch.until_off()
        self.is_switched_off = True
        self.end()
        # Before the last ack, after which the broker would send the next message, and count its delivery.
        with suppress(BrokerUnavailable):
            await self.stop_deliveries()
        await asyncio.sleep(FINISH_SECONDS)
        self._is_cut_off = True
        for work in self._works:
            work.cancel()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start work; it is cancelled if it takes long after the subscription was switched off.

        It must not call `stop_deliveries` or `subscribe`: the client library closes a channel whose call is
        cancelled, which would release all deliveries.
        """
        task = asyncio.create_task(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)
        if self._is_cut_off:
            task.cancel()
        return task

    def _note_if_nothing_is_held(self) -> None:
        if not self._held:
            self._acknowledged_all.set()
        self._end_if_drained()

    async def _until_nothing_is_held(self) -> None:
        while self._held:
            self._acknowledged_all.clear()
            await self._acknowledged_all.wait()

    async def _stop_and_end(self) -> None:
        """Raises: BrokerUnavailable."""
        await self.stop_deliveries()
        self._end_if_drained()

    def _end_if_drained(self) -> None:
        if self._is_ending and not self._held and not self.channel.has_consumers:
            log.info("session.renewed", subscription=self.subscription.name)
            self.end()

    async def _is_subscribed(self, within: float) -> bool:
        for queue in self.subscription.queues:
            if self.subscription.stopping.is_set() or not self.channel.is_open:
                return False
            if not await self.channel.is_subscribed(queue, within):
                # While the session ends, some of its queues are cancelled before others.
                return self._is_ending and self.channel.is_open
        return True
