"""The benchmark's connection to the broker: it counts messages, reads them, and publishes them fast."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic

import aiormq
from aiormq import Channel
from aiormq.abc import ChannelFrame, DeliveredMessage
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from tests.bench.figures import Sample

LOOK_SECONDS = 0.05
STUCK_SECONDS = 60.0
FILL_SECONDS = 600.0

# Bytes per write to the socket.
MESSAGES_TOGETHER = 100


class Stuck(Exception):
    """The number of messages no longer changes. The text names the queues."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as the ingest published it, to be published again byte for byte."""

    queue: str
    exchange: str
    routing_key: str
    properties: Basic.Properties
    body: bytes

    @property
    def event_id(self) -> str:
        return str((self.properties.headers or {})["x-event-id"])

    def frames(self, channel: int) -> bytes:
        publish = Basic.Publish(exchange=self.exchange, routing_key=self.routing_key)
        header = ContentHeader(properties=self.properties, body_size=len(self.body))
        return ChannelFrame.marshall(channel, [publish, header, ContentBody(self.body)]).payload


@dataclass(slots=True)
class BrokerLine:
    """One channel without confirms, so that it adds little work to the broker."""

    channel: Channel
    version: str
    """The broker's."""

    async def ready(self, queues: Iterable[str]) -> int:
        """Messages that wait in these queues."""
        total = 0
        for queue in queues:
            total += (await self.channel.queue_declare(queue, passive=True)).message_count or 0
        return total

    async def consumers(self, queue: str) -> int:
        return (await self.channel.queue_declare(queue, passive=True)).consumer_count or 0

    async def purge(self, queues: Iterable[str]) -> None:
        for queue in queues:
            await self.channel.queue_purge(queue)

    async def listen_in(self, queue: str, exchange: str, routing_keys: Iterable[str]) -> None:
        """Bind a private queue to an exchange with these routing keys."""
        await self.channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        for routing_key in routing_keys:
            await self.channel.queue_bind(queue, exchange, routing_key)

    async def take_all(self, queues: Sequence[str], count: int) -> list[Stored]:
        """Receive this many messages; those of each queue are in order."""
        taken: list[Stored] = []
        enough = asyncio.Event()

        def receiver(queue: str) -> Callable[[DeliveredMessage], Coroutine[None, None, None]]:
            async def receive(message: DeliveredMessage) -> None:
                properties = message.header.properties
                exchange, key = message.exchange or "", message.routing_key or ""
                taken.append(Stored(queue, exchange, key, properties, message.body))
                if len(taken) >= count:
                    enough.set()

            return receive

        tags = [
            (await self.channel.basic_consume(queue, receiver(queue), no_ack=True)).consumer_tag
            for queue in queues
        ]
        async with asyncio.timeout(FILL_SECONDS):
            await enough.wait()
        for tag in tags:
            await self.channel.basic_cancel(tag or "")
        return taken

    async def publish(self, chunks: Iterable[bytes]) -> None:
        """Write frames that were encoded for this channel."""
        loop = asyncio.get_running_loop()
        for chunk in chunks:
            written = loop.create_future()
            await self.channel.write_queue.put(ChannelFrame(chunk, should_close=False, drain_future=written))
            await written

    async def watch(
        self, queues: Sequence[str], is_over: Callable[[int], bool], check: Callable[[], None]
    ) -> list[tuple[float, int]]:
        """Record the number of waiting messages, with the time, until `is_over`.

        Raises:
            Stuck: And whatever `check` raises.
        """
        seen: list[tuple[float, int]] = []
        moved = monotonic()
        while True:
            waiting = await self.ready(queues)
            now = monotonic()
            if not seen or seen[-1][1] != waiting:
                moved = now
            seen.append((now, waiting))
            if is_over(waiting):
                return seen
            if now - moved > STUCK_SECONDS:
                raise Stuck(f"{waiting} messages wait in {', '.join(queues)}, and nothing moves")
            check()
            await asyncio.sleep(LOOK_SECONDS)


def drained(seen: Sequence[tuple[float, int]], total: int) -> list[Sample]:
    return [Sample(at, total - waiting) for at, waiting in seen]


def chunks(messages: Sequence[Stored], channel: int) -> list[bytes]:
    """The frames of all messages, several messages per chunk."""
    frames = [message.frames(channel) for message in messages]
    return [
        b"".join(frames[first : first + MESSAGES_TOGETHER])
        for first in range(0, len(frames), MESSAGES_TOGETHER)
    ]


@asynccontextmanager
async def broker_line(url: str) -> AsyncIterator[BrokerLine]:
    connection = await aiormq.connect(url)
    try:
        channel = await connection.channel(publisher_confirms=False)
        assert isinstance(channel, Channel), "aiormq's only kind"
        yield BrokerLine(channel, str(connection.server_properties["version"]))
    finally:
        await connection.close()
