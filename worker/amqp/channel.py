"""One AMQP channel: declare, publish with confirms, consume."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from uuid import uuid4

from aiormq import Channel as UnderlyingChannel
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import (
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ConnectionInternalError,
)
from pamqp.commands import Basic

from worker.amqp.codec import JSON
from worker.amqp.errors import (
    BrokerUnavailable,
    TopologyMismatch,
    Unroutable,
    translating,
)
from worker.amqp.tap import ChannelTap, Delivery
from worker.amqp.topology import (
    PROBE,
    Binding,
    Exchange,
    Queue,
    Topology,
)

# Far more than a terminal shows in the time that an ack takes.
EXCLUSIVE_PREFETCH = 200


@contextmanager
def _translating_mismatch() -> Iterator[None]:
    # In other calls the code has other meanings, such as a delivery that was held for too long.
    try:
        yield
    except ChannelPreconditionFailed as error:
        raise TopologyMismatch(str(error).removeprefix("PRECONDITION_FAILED - ")) from error


@dataclass(frozen=True, slots=True)
class Message:
    """A message to publish. `type` is the event's routing key, also if `routing_key` is another one."""

    exchange: str
    routing_key: str
    type: str
    headers: Mapping[str, str | int]
    body: bytes
    content_type: str = JSON


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """The number of messages that wait, without those in flight, and the number of consumers."""

    ready: int
    consumers: int


class Channel:
    """One AMQP channel with publisher confirms. `note_silence` is called if an answer is late."""

    def __init__(self, channel: UnderlyingChannel, tap: ChannelTap, note_silence: Callable[[], None]) -> None:
        self._channel = channel
        self._tap = tap
        self._note_silence = note_silence

    async def publish(self, message: Message, deadline: float) -> None:
        """Publish persistently and wait for the confirm, `deadline` seconds at most.

        Raises:
            Unroutable
            BrokerUnavailable: Unknown outcome: publish again, under the same event id.
        """
        await self._confirmed(self._publish(message, deadline, mandatory=True))

    async def publish_many(self, messages: Sequence[Message], deadline: float) -> None:
        """Publish messages to all queues that are bound, possibly none, and wait for all confirms.

        Raises:
            BrokerUnavailable: Some may have arrived.
        """
        confirms = [self._publish(message, deadline, mandatory=False) for message in messages]
        await self._confirmed(asyncio.gather(*confirms))

    async def _confirmed(self, confirm: Awaitable[object]) -> None:
        try:
            await confirm
        except BaseException as error:
            if isinstance(error, TimeoutError):
                self._note_silence()
            # To enter this for each confirm costs more than the confirm.
            with translating():
                raise

    def _publish(self, message: Message, deadline: float, *, mandatory: bool) -> asyncio.Future[None]:
        """The broker's confirm. Raises: BrokerUnavailable; ValueError, if no frame can hold the message."""
        if self._channel.is_closed:
            raise BrokerUnavailable("not connected")
        return self._tap.publish(
            message.exchange,
            message.routing_key,
            message.type,
            message.headers,
            message.body,
            deadline,
            message.content_type,
            mandatory=mandatory,
        )

    async def consume(
        self,
        queue: str,
        tag: str,
        prefetch: int,
        on_delivery: Callable[[Delivery], None],
    ) -> None:
        """Consume a queue: `on_delivery` receives each message, at most `prefetch` of them unacknowledged."""
        consumer_tag = f"{tag}.{uuid4().hex[:8]}"
        self._tap.consume(consumer_tag, queue, on_delivery)
        with translating():
            await self._channel.basic_qos(prefetch_count=prefetch)
            await self._channel.basic_consume(queue, _delivered_past_the_tap, consumer_tag=consumer_tag)

    async def subscribe_exclusive(
        self,
        exchange: str,
        routing_keys: Sequence[str],
        tag: str,
        on_delivery: Callable[[Delivery], None],
        prefetch: int = EXCLUSIVE_PREFETCH,
    ) -> None:
        """Consume what an exchange receives from now on, over a queue that is deleted with the connection.

        Raises:
            BrokerRefused: The user may not declare queues, or may not read the exchange.
        """
        with translating():
            declared = await self._channel.queue_declare("", exclusive=True)
            assert declared.queue is not None, "the broker names it"
            for routing_key in routing_keys:
                await self._channel.queue_bind(declared.queue, exchange, routing_key)
        await self.consume(declared.queue, tag, prefetch, on_delivery)

    @property
    def has_consumers(self) -> bool:
        """Whether a subscription of ours is not cancelled yet."""
        return bool(self._channel.consumers)

    async def cancel_consumers(self) -> None:
        """Stop deliveries. Those that have arrived stay in flight."""
        with translating():
            for tag in list(self._channel.consumers):
                await self._channel.basic_cancel(tag)

    async def ack(self, tag: int) -> None:
        """Acknowledge only this delivery.

        Raises:
            BrokerUnavailable: It will be delivered again.
        """
        self._ack(tag, is_multiple=False)

    async def ack_up_to(self, tag: int) -> None:
        """Acknowledge every delivery up to this tag.

        Raises:
            BrokerUnavailable: All of them will be delivered again.
        """
        self._ack(tag, is_multiple=True)

    def _ack(self, tag: int, *, is_multiple: bool) -> None:
        """Does not wait until the ack is sent: the prefetch limits how many acks can wait."""
        if self._channel.is_closed:
            raise BrokerUnavailable("not connected")
        with translating():
            self._tap.ack(tag, is_multiple=is_multiple)

    def on_cancelled(self, callback: Callable[[], None]) -> None:
        """Call back when the broker ends a subscription, as it does when the queue is deleted."""
        self._channel.on_consumer_cancel_callbacks.add(lambda _frame: callback())

    async def is_subscribed(self, queue: str, within: float) -> bool:
        """Whether the broker answers within these seconds, and has a consumer on the queue if we want one.

        The consumer may be another process's. A dead connection is noticed in any case.
        """
        try:
            async with asyncio.timeout(within):
                depth = await self.depth(queue)
        except (BrokerUnavailable, TimeoutError):
            self._note_silence()
            return False
        return depth is not None and (depth.consumers > 0 or not self.has_consumers)

    async def depth(self, queue: str) -> QueueDepth | None:
        """The result of a passive declaration. None if there is no such queue; then the channel is closed."""
        with translating():
            try:
                declared = await self._channel.queue_declare(queue, passive=True)
            except ChannelNotFoundEntity:
                return None
        return QueueDepth(declared.message_count or 0, declared.consumer_count or 0)

    async def exists(self, item: Exchange | Queue) -> bool:
        """Whether a passive declaration succeeds. If it does not, the channel is closed.

        Raises:
            BrokerRefused: RabbitMQ 4.2.6 and newer show only what this user has any permission for.
        """
        if isinstance(item, Queue):
            return await self.depth(item.name) is not None
        with translating():
            try:
                await self._channel.exchange_declare(item.name, passive=True)
            except ChannelNotFoundEntity:
                return False
        return True

    async def answers(self, queue: str, within: float) -> bool:
        """Whether a queue returns a message within these seconds, or reports that it is empty or locked.

        A message is returned to the queue, and is then delivered to its consumer as a redelivery.

        Raises:
            BrokerRefused: The user may not read it.
            BrokerUnavailable: The connection was lost before an answer.
        """
        try:
            with translating():
                async with asyncio.timeout(within):
                    message = await self._channel.basic_get(queue)
                    if message.delivery_tag is not None:
                        await self._channel.basic_nack(message.delivery_tag, requeue=True)
        except BrokerUnavailable as error:
            match error.__cause__:
                case ChannelLockedResource():
                    # A queue with a single active consumer refuses all others, and it is the leader that
                    # answers.
                    return True
                case TimeoutError() | ConnectionInternalError():
                    return False
                case _:
                    raise
        return True

    async def accepts_publishes(self, within: float) -> bool:
        """Whether the broker confirms what we publish. It does not while an alarm is on.

        The probe is not routed anywhere, and is returned.
        """
        nowhere = Message(PROBE, "nowhere", "probe", {}, b"")
        try:
            await self.publish(nowhere, within)
        except Unroutable:
            return True
        except BrokerUnavailable:
            return False
        return True

    async def wait_closed(self) -> None:
        await asyncio.wait([self._channel.closing])

    @property
    def is_open(self) -> bool:
        return not self._channel.is_closed

    async def ensure_topology(self, topology: Topology) -> None:
        """Declare all items, then remove unwanted bindings: in this order no message is missed.

        Raises:
            TopologyMismatch
            BrokerUnavailable
        """
        items: list[Exchange | Queue | Binding] = [*topology.exchanges, *topology.queues, *topology.bindings]
        for item in items:
            await self.declare_item(item)
        with translating():
            for one in topology.unwanted:
                await self._channel.queue_unbind(one.queue, one.exchange, one.routing_key)

    async def declare_item(self, item: Exchange | Queue | Binding) -> None:
        """Raises as `ensure_topology` does."""
        with translating(), _translating_mismatch():
            match item:
                case Exchange(name, kind, arguments):
                    await self._channel.exchange_declare(
                        name, exchange_type=kind, durable=True, arguments=dict(arguments)
                    )
                case Queue(name, arguments):
                    await self._channel.queue_declare(name, durable=True, arguments=dict(arguments))
                case Binding(exchange, queue, routing_key):
                    await self._channel.queue_bind(queue, exchange, routing_key)

    async def get(self, queue: str) -> Delivery | None:
        """Remove one message from a queue and return it; None if the queue is empty."""
        with translating():
            message = await self._channel.basic_get(queue, no_ack=True)
        return None if isinstance(message.delivery, Basic.GetEmpty) else _delivery(message, queue)

    async def delete(self, queue: str) -> None:
        with translating():
            await self._channel.queue_delete(queue)

    async def purge(self, queue: str) -> None:
        """Delete all messages of a queue. For tests."""
        with translating():
            await self._channel.queue_purge(queue)

    async def close(self) -> None:
        """Close the channel. Unacknowledged deliveries are delivered again, which counts as a delivery."""
        with suppress(BrokerUnavailable), translating():
            await self._channel.close()


def missing_item(item: Exchange | Queue) -> str:
    return f"{type(item).__name__.lower()} {item.name} is missing"


async def _delivered_past_the_tap(_message: DeliveredMessage) -> None:
    raise AssertionError("the tap handles the deliveries of all our consumers")


def _delivery(message: DeliveredMessage, queue: str) -> Delivery:
    properties = message.header.properties
    return Delivery(
        tag=message.delivery_tag or 0,
        type=properties.message_type or "",
        headers=properties.headers or {},
        body=message.body,
        redelivered=bool(message.redelivered),
        message_id=properties.message_id or "",
        queue=queue,
    )
