"""Connections to the broker."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from copy import copy
from dataclasses import dataclass, field
from random import Random
from time import monotonic

import aio_pika
import structlog
from aiormq import Channel as UnderlyingChannel
from yarl import URL

from worker.amqp.channel import Channel, QueueDepth, missing_item
from worker.amqp.errors import (
    BrokerRefused,
    BrokerUnavailable,
    TopologyMismatch,
    only_own_cancellation,
    translating,
)
from worker.amqp.hosts import (
    Host,
    all_reasons,
    hosts_of_url,
    shuffled,
)
from worker.amqp.topology import Exchange, Queue, Topology
from worker.amqp.transport import TappedConnection
from worker.observability.backoff import ShutdownRequested, retry_until_available, sleep_unless_stopping

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS = 5
CONNECT_TIMEOUT_SECONDS = 5

# The timeout if there is another host to try.
HOST_TIMEOUT_SECONDS = 2

# For all declarations of a session. A node without a majority may not answer.
PROVIDE_SECONDS = 30.0

# A queue without a leader does not answer.
DEPTH_TIMEOUT_SECONDS = 5

# A session that ends sooner may do so again, so there is a pause before the next one.
SHORT_SESSION_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0


@dataclass(slots=True)
class Broker:
    """The address of the broker, and our user. A URL with several hosts is that of a cluster."""

    url: str
    role: str
    hosts: tuple[Host, ...] = field(init=False)
    _machine: str = field(default_factory=socket.gethostname)
    _rng: Random = field(default_factory=Random)

    def __post_init__(self) -> None:
        self.hosts = hosts_of_url(self.url)

    def for_role(self, role: str) -> "Broker":
        """The same broker for another role of this process, with the known failures of its hosts."""
        other = copy(self)
        other.role = role
        return other

    @asynccontextmanager
    async def connection(self, *, publishes: bool = False) -> AsyncIterator["BrokerConnection"]:
        """A connection that does not reconnect.

        If there are several hosts, publishers and consumers of a process use different ones. A host that
        fails, when a connection is opened or later, is tried last for a while.

        Raises:
            BrokerUnavailable
            BrokerRefused: A host refused, and no other host accepted us.
        """
        failures: dict[str, BrokerUnavailable] = {}
        hosts = shuffled(self.hosts, monotonic(), self._rng, publishes=publishes)
        for host in hosts:
            seconds = CONNECT_TIMEOUT_SECONDS if host is hosts[-1] else HOST_TIMEOUT_SECONDS
            with host.in_use(publishes=publishes):
                try:
                    opened = await self._connect(host, seconds)
                except BrokerUnavailable as error:
                    failures[host.name] = error
                    host.note_failure()
                    continue
                for name, failure in failures.items():
                    log.warning("broker.host_failed", host=name, reason=str(failure))
                connection = BrokerConnection(opened, host.name)
                try:
                    yield connection
                finally:
                    if connection.is_lost:
                        host.note_failure()
                        # A regular close would wait for an answer.
                        opened.tapped.abort()
                    await opened.close()
                return
        raise _failed(failures) from failures[hosts[-1].name]

    async def failing_hosts(self) -> dict[str, BrokerUnavailable]:
        """Try each host, and return why those that fail accept no connection, by their names."""
        results = await asyncio.gather(*map(self._try, self.hosts))
        return {host.name: failure for host, failure in zip(self.hosts, results, strict=True) if failure}

    async def _try(self, host: Host) -> BrokerUnavailable | None:
        try:
            connection = await self._connect(host, CONNECT_TIMEOUT_SECONDS)
        except BrokerUnavailable as failure:
            return failure
        await connection.close()
        return None

    async def _connect(self, host: Host, seconds: float) -> TappedConnection:
        name = f"stockhook/{self.role}@{self._machine}:{os.getpid()}"
        with translating():
            connection = await aio_pika.connect(
                URL(host.url).update_query(heartbeat=HEARTBEAT_SECONDS),
                client_properties={"connection_name": name},
                timeout=seconds,
                connection_class=TappedConnection,
            )
        assert isinstance(connection, TappedConnection), "we requested this class"
        return connection


def _failed(failures: Mapping[str, BrokerUnavailable]) -> BrokerUnavailable:
    """One error for the answers of all hosts: a BrokerRefused if any host refused."""
    refusals = [error for error in failures.values() if isinstance(error, BrokerRefused)]
    reasons = all_reasons(
        {
            name: error.answer if isinstance(error, BrokerRefused) else str(error)
            for name, error in failures.items()
        }
    )
    return BrokerRefused(reasons, refusals[0].remedy) if refusals else BrokerUnavailable(reasons)


class BrokerConnection:
    """An open connection to `host`, on which channels are opened."""

    def __init__(self, connection: TappedConnection, host: str) -> None:
        self.host = host
        self._connection = connection
        self._is_silent = False

    @property
    def is_lost(self) -> bool:
        """Whether the broker closed the connection, or did not answer in time."""
        return self._connection.tapped.is_lost or self._is_silent

    def _note_silence(self) -> None:
        self._is_silent = True

    async def channel(self) -> Channel:
        """Raises: BrokerUnavailable."""
        with translating():
            channel = self._connection.channel(publisher_confirms=True, on_return_raises=True)
            await channel.initialize()
            underlay = await channel.get_underlay_channel()
        assert isinstance(underlay, UnderlyingChannel), "aio-pika is built on aiormq"
        frame_max = underlay.connection.connection_tune.frame_max
        return Channel(underlay, self._connection.tapped.tap(underlay, frame_max), self._note_silence)

    async def channel_with(self, topology: Topology, *, declares: bool) -> Channel:
        """Open a channel, and declare the topology on it, or verify that it exists.

        Raises:
            TopologyMismatch
            BrokerUnavailable: Also if this takes too long.
        """
        try:
            async with asyncio.timeout(PROVIDE_SECONDS):
                channel = await self.channel()
                if declares:
                    await channel.ensure_topology(topology)
                else:
                    await self.verify_topology(topology)
                return channel
        except TimeoutError as error:
            self._note_silence()
            raise BrokerUnavailable("no answer in time to a declaration") from error

    async def verify_topology(self, topology: Topology) -> None:
        """Check that exchanges and queues exist.

        Bindings, and items for which this user has no permission, cannot be checked.
        """
        items: list[Exchange | Queue] = [*topology.exchanges, *topology.queues]
        channel: Channel | None = None
        for item in items:
            channel = channel or await self.channel()
            try:
                if not await channel.exists(item):
                    raise TopologyMismatch(f"{missing_item(item)}: `stockhook topology` declares it")
            except BrokerRefused:
                channel = None
        if channel is not None:
            await channel.close()

    @property
    def version(self) -> str:
        """The version that the broker reports, such as `3.10.8`."""
        assert self._connection.transport is not None, "it is open"
        version = self._connection.transport.connection.server_properties.get("version", "")
        return version.decode() if isinstance(version, bytes) else str(version)

    async def difference(self, expected: Exchange | Queue, *, by_arguments: bool = True) -> str | None:
        """How an item on the broker differs from the expected one. Nothing is created.

        A declaration of an existing item compares its arguments, and needs the permission to declare. Without
        `by_arguments`, only the existence is checked.

        Raises:
            BrokerRefused: The user may not declare or see it.
        """
        channel = await self.channel()
        if not await channel.exists(expected):
            return missing_item(expected)
        if by_arguments:
            try:
                await channel.declare_item(expected)
            except TopologyMismatch as mismatch:
                return str(mismatch)
        await channel.close()
        return None

    async def depths(self, queues: Iterable[str]) -> dict[str, QueueDepth | None]:
        """The depth of each queue; None if the queue does not exist.

        Raises:
            BrokerUnavailable: Also if a queue has no leader, and so does not answer.
        """
        depths: dict[str, QueueDepth | None] = {}
        channel: Channel | None = None
        for queue in queues:
            channel = channel or await self.channel()
            try:
                async with asyncio.timeout(DEPTH_TIMEOUT_SECONDS):
                    depths[queue] = await channel.depth(queue)
            except TimeoutError as error:
                # The queue may have no leader, which is not this host's fault.
                raise BrokerUnavailable(f"queue {queue} does not answer") from error
            if depths[queue] is None:
                channel = None
        if channel is not None:
            await channel.close()
        return depths

    async def depth(self, queue: str) -> QueueDepth | None:
        """The depth of one queue; None if it does not exist."""
        return (await self.depths([queue]))[queue]


async def reconnect_forever(
    name: str,
    session: Callable[[], Awaitable[None]],
    stopping: asyncio.Event,
    on_trouble: Callable[[str], None] | None = None,
) -> None:
    """Run sessions, one after another, until shutdown. Pauses grow while sessions fail or end early.

    `on_trouble` receives the reason if there is no session.

    Raises:
        TopologyMismatch: And all other errors except BrokerUnavailable.
    """

    def say(reason: str) -> None:
        log.warning("broker.unavailable", connection=name, reason=reason)
        if on_trouble is not None:
            on_trouble(reason)

    async def attempt() -> None:
        with only_own_cancellation():
            await session()

    next_pause = FIRST_PAUSE_SECONDS
    while not stopping.is_set():
        began = monotonic()
        with suppress(ShutdownRequested):
            await retry_until_available(
                attempt, BrokerUnavailable, stopping, longest_pause=LONGEST_PAUSE_SECONDS, say=say
            )
        lasted = monotonic() - began
        if stopping.is_set():
            return
        if lasted >= SHORT_SESSION_SECONDS:
            next_pause = FIRST_PAUSE_SECONDS
            continue
        log.warning("session.ended_early", connection=name, seconds=round(lasted, 2), pause=next_pause)
        if on_trouble is not None:
            on_trouble("its last session ended early")
        await sleep_unless_stopping(next_pause, stopping)
        next_pause = min(2 * next_pause, LONGEST_PAUSE_SECONDS)
