"""A connection that is used only to publish, with a loop that reconnects it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import structlog

from worker.amqp.channel import Channel, Message
from worker.amqp.connection import Broker, reconnect_forever
from worker.amqp.errors import BrokerUnavailable, Unroutable
from worker.amqp.topology import Topology
from worker.amqp.watchdog import watch_channel
from worker.observability import metrics
from worker.observability.backoff import DeadlineExceeded, retry_until_available

log = structlog.get_logger(__name__)

# The time in which the broker must answer whether it still confirms.
PROBE_SECONDS = 3.0

# A cancellation that had no effect within this time is repeated.
CANCEL_AGAIN_SECONDS = 1.0

# While the broker confirms no copy, deliveries cannot be requeued either. Below the shortest consumer timeout
# that docs/reference/versions.md allows, 20 minutes.
LONGEST_UNCONFIRMED_SECONDS = 1080.0


@dataclass(slots=True)
class Publisher:
    """A connection that is used only to publish, with a loop that reconnects it.

    Alarms of the broker stop publishers, so nothing is consumed over this connection. It is ready only
    while the broker confirms. After a publish that was not confirmed in time it reconnects, so that
    messages do not accumulate in the old connection.
    """

    broker: Broker
    topology: Topology
    deadline: float
    declares: bool = True
    _channel: Channel | None = None
    _ready: asyncio.Event = field(default_factory=asyncio.Event)
    _confirm_timed_out: asyncio.Event = field(default_factory=asyncio.Event)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None
    _trouble: str = "no session yet"

    async def __aenter__(self) -> Self:
        metrics.PUBLISHER_READY.set_function(lambda: self.is_ready)
        connecting = reconnect_forever("publisher", self._session, self._stopping, self._note_trouble)
        self._task = asyncio.create_task(connecting, name="publisher")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        # The client library can turn a cancellation into an error of its own, or lose it while it connects.
        self._stopping.set()
        while not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CANCEL_AGAIN_SECONDS)

    @property
    def is_ready(self) -> bool:
        return self._channel is not None and self._channel.is_open

    async def check(self) -> str | None:
        """Why publishing is not possible; None if it is."""
        return self.trouble

    @property
    def trouble(self) -> str | None:
        return None if self.is_ready else f"not connected: {self._trouble}"

    async def must_be_ready(self) -> None:
        """Raises: BrokerUnavailable."""
        if not self.is_ready:
            raise BrokerUnavailable("not connected")

    async def wait_ready(self) -> None:
        """Return once connected, with the topology declared.

        Raises:
            TopologyMismatch
        """
        assert self._task is not None
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait([ready, self._task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self._task.done():
            self._task.result()

    async def failed(self) -> None:
        """Wait until the publisher fails.

        Raises:
            TopologyMismatch
        """
        assert self._task is not None
        await asyncio.shield(self._task)

    async def publish(self, message: Message) -> None:
        """Raises as `Channel.publish` does; immediately if there is no connection."""
        await self._over(lambda channel: channel.publish(message, self.deadline))

    async def publish_many(self, messages: Sequence[Message]) -> None:
        """Raises as `Channel.publish_many` does; immediately if there is no connection."""
        await self._over(lambda channel: channel.publish_many(messages, self.deadline))

    async def _over(self, publish: Callable[[Channel], Awaitable[None]]) -> None:
        channel = self._channel
        if channel is None or not channel.is_open:
            raise BrokerUnavailable("not connected")
        try:
            await publish(channel)
        except BrokerUnavailable:
            if channel is self._channel:
                self._confirm_timed_out.set()
            raise

    def _note_trouble(self, reason: str) -> None:
        self._trouble = reason

    async def _session(self) -> None:
        async with self.broker.connection(publishes=True) as connection:
            channel = await connection.channel_with(self.topology, declares=self.declares)
            if not await channel.accepts_publishes(PROBE_SECONDS):
                raise BrokerUnavailable("the broker confirms nothing")
            self._confirm_timed_out.clear()
            self._channel = channel
            self._ready.set()
            log.info("publisher.connected", role=self.broker.role, host=connection.host)
            try:
                await watch_channel(
                    channel, self._confirm_timed_out, PROBE_SECONDS, channel.accepts_publishes
                )
                self._trouble = "the broker is unavailable, or confirms nothing"
                log.warning(
                    "publisher.lost",
                    role=self.broker.role,
                    host=connection.host,
                    unconfirmed=self._confirm_timed_out.is_set(),
                )
            finally:
                self._channel = None
                self._ready.clear()


async def publish_until_confirmed(
    publisher: Publisher, message: Message, stopping: asyncio.Event, holding: Channel
) -> None:
    """Publish a message again until it is confirmed. `holding` has the original delivery, unacknowledged.

    Releasing the delivery counts towards the broker's delivery limit. So it is released only just before the
    broker's consumer timeout, and nothing is consumed until the broker confirms again: an outage counts once,
    however long it is. If the outcome of an attempt was unknown, there may be one copy too many.

    Raises:
        ShutdownRequested
        BrokerUnavailable: The delivery was released.
    """
    try:
        await retry_until_available(
            lambda: publisher.publish(message),
            (BrokerUnavailable, Unroutable),
            stopping,
            longest_pause=5,
            at_most=LONGEST_UNCONFIRMED_SECONDS,
            say=lambda reason: log.warning("publish.repeated", to=message.routing_key, reason=reason),
        )
    except DeadlineExceeded as error:
        log.warning("deliveries.released", to=message.routing_key)
        await holding.close()
        await retry_until_available(publisher.must_be_ready, BrokerUnavailable, stopping, longest_pause=5)
        raise BrokerUnavailable("the broker confirmed nothing for too long") from error
