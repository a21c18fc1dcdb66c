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

# Far more than a terminal shows in the time of an ack.
LISTEN_PREFETCH = 200


@contextmanager
def _noticing_mismatch() -> Iterator[None]:
    # Elsewhere the same code means other things, such as a delivery that was held for too long.
    try:
        yield
    except ChannelPreconditionFailed as error:
        raise TopologyMismatch(str(error).removeprefix("PRECONDITION_FAILED - ")) from error


@dataclass(frozen=True, slots=True)
class Message:
    """Something to publish. `type` is the event's routing key, also where it is routed by another."""

    exchange: str
    routing_key: str
    type: str
    headers: Mapping[str, str | int]
    body: bytes
    content_type: str = JSON


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """Messages that wait, without those in flight, and how many consumers there are."""

    ready: int
    consumers: int


class Channel:
    """One AMQP channel with publisher confirms. `note_silence` is called when no answer comes in time."""

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

    async def tell(self, messages: Sequence[Message], deadline: float) -> None:
        """Publish several to whoever is bound, which may be nobody, and wait for all confirms.

        Raises:
            BrokerUnavailable: Some may have arrived.
        """
        confirms = [self._publish(message, deadline, mandatory=False) for message in messages]
        await self._confirmed(asyncio.gather(*confirms))

    async def _confirmed(self, confirm: Awaitable[object]) -> None:
        with translating():
            try:
                await confirm
            except TimeoutError:
                self._note_silence()
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
        """Have each message of a queue handed to `on_delivery`, `prefetch` unacknowledged at most."""
        consumer_tag = f"{tag}.{uuid4().hex[:8]}"
        self._tap.consume(consumer_tag, queue, on_delivery)
        with translating():
            await self._channel.basic_qos(prefetch_count=prefetch)
            await self._channel.basic_consume(queue, _delivered_past_the_tap, consumer_tag=consumer_tag)

    async def listen(
        self,
        exchange: str,
        routing_keys: Sequence[str],
        tag: str,
        on_delivery: Callable[[Delivery], None],
        prefetch: int = LISTEN_PREFETCH,
    ) -> None:
        """The same of what an exchange gets from now on, over a queue that goes with the connection.

        Raises:
            BrokerRefused: This user may not declare queues, or not read the exchange.
        """
        with translating():
            declared = await self._channel.queue_declare("", exclusive=True)
            assert declared.queue is not None, "the broker names it"
            for routing_key in routing_keys:
                await self._channel.queue_bind(declared.queue, exchange, routing_key)
        await self.consume(declared.queue, tag, prefetch, on_delivery)

    async def cancel_consumers(self) -> None:
        """Have nothing more delivered; what was delivered stays in flight."""
        with translating():
            for tag in list(self._channel.consumers):
                await self._channel.basic_cancel(tag)

    async def ack(self, tag: int) -> None:
        """Acknowledge this delivery alone.

        Raises:
            BrokerUnavailable: It will be delivered again.
        """
        with translating():
            await self._channel.basic_ack(tag)

    async def ack_up_to(self, tag: int) -> None:
        """Acknowledge every delivery up to this tag.

        Raises:
            BrokerUnavailable: All of them will be delivered again.
        """
        with translating():
            await self._channel.basic_ack(tag, multiple=True)

    def on_cancelled(self, callback: Callable[[], None]) -> None:
        """Call back when the broker ends a subscription, as it does when the queue is deleted."""
        self._channel.on_consumer_cancel_callbacks.add(lambda _frame: callback())

    async def is_subscribed(self, queue: str, within: float) -> bool:
        """Whether the broker answers within these seconds, and has a consumer on the queue if we want one.

        It may be another's consumer; a connection that is dead without knowing it shows in any case.
        """
        try:
            async with asyncio.timeout(within):
                found = await self.depth(queue)
        except (BrokerUnavailable, TimeoutError):
            self._note_silence()
            return False
        return found is not None and (found.consumers > 0 or not self._channel.consumers)

    async def depth(self, queue: str) -> QueueDepth | None:
        """Ask by a passive declare. None if there is no such queue; then the channel is closed."""
        with translating():
            try:
                found = await self._channel.queue_declare(queue, passive=True)
            except ChannelNotFoundEntity:
                return None
        return QueueDepth(found.message_count or 0, found.consumer_count or 0)

    async def is_there(self, item: Exchange | Queue) -> bool:
        """Look, by a passive declaration. Where it is not there, or cannot be seen, the channel is closed.

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
        """Whether a queue gives out, within these seconds, or says that it is empty, or another's.

        What it gives out is put back; it then comes to its consumer as a redelivery.

        Raises:
            BrokerRefused: This user may not read it.
            BrokerUnavailable: The connection was lost before it said anything.
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
                    # A queue with a single active consumer gives nobody else anything. Its leader says so.
                    return True
                case TimeoutError() | ConnectionInternalError():
                    return False
                case _:
                    raise
        return True

    async def accepts_publishes(self, within: float) -> bool:
        """Whether the broker reads and confirms what we publish: it does not while an alarm is on.

        The message is routed nowhere, and comes back.
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

    async def declare(self, topology: Topology) -> None:
        """Declare whatever is missing, then unbind what is unwanted: what is bound both ways misses nothing.

        Raises:
            TopologyMismatch
            BrokerUnavailable
        """
        items: list[Exchange | Queue | Binding] = [*topology.exchanges, *topology.queues, *topology.bindings]
        for item in items:
            await self.declare_one(item)
        with translating():
            for one in topology.unwanted:
                await self._channel.queue_unbind(one.queue, one.exchange, one.routing_key)

    async def declare_one(self, item: Exchange | Queue | Binding) -> None:
        """Raises as `declare` does."""
        with translating(), _noticing_mismatch():
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
        """Take one message off a queue for good; None if nothing waits."""
        with translating():
            message = await self._channel.basic_get(queue, no_ack=True)
        return None if isinstance(message.delivery, Basic.GetEmpty) else _delivery(message, queue)

    async def delete(self, queue: str) -> None:
        """Delete a queue with all that it holds."""
        with translating():
            await self._channel.queue_delete(queue)

    async def purge(self, queue: str) -> None:
        """Throw away what waits in a queue: for tests, and for those who mean it."""
        with translating():
            await self._channel.queue_purge(queue)

    async def close(self) -> None:
        """Unacknowledged deliveries come again, and count as delivered once more."""
        with suppress(BrokerUnavailable), translating():
            await self._channel.close()


def missing(item: Exchange | Queue) -> str:
    """The words for it."""
    return f"{type(item).__name__.lower()} {item.name} is missing"


async def _delivered_past_the_tap(_message: DeliveredMessage) -> None:
    raise AssertionError("the tap takes the deliveries of every consumer of ours")


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
