"""A TCP proxy that injects faults of networks: delay, hold, lose, reset, and cut at a chosen message.

It has its own thread and event loop, so that it works while a test is busy. Every method may be called from
any thread, and has taken effect when it returns.
"""

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from random import Random
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from deploy.local.ports import LOOPBACK, choose_ports
from tests.support.protocol_watch import Direction, Garbled, Piece, Point, Unwatched, Watch

T = TypeVar("T")

CHUNK = 65_536
# The bytes that a direction buffers before it stops reading from the sender.
CHUNKS_UNDER_WAY = 256
ANSWER_SECONDS = 10

# With this option, closing a socket sends RST instead of FIN.
_NO_LINGER = struct.pack("ii", 1, 0)


class Flow(StrEnum):
    PASSED = "passed"
    HELD = "held"
    """Delay all bytes until `heal`, as a partition that TCP survives."""
    DROPPED = "dropped"
    """Lose all bytes. `heal` resets the connections that lost some."""


@dataclass(frozen=True, slots=True)
class Way:
    """The treatment of one direction. Each chunk is delayed by `latency` and up to `jitter`."""

    flow: Flow = Flow.PASSED
    latency: timedelta = timedelta()
    jitter: timedelta = timedelta()
    bytes_per_second: int | None = None


CLEAR = Way()


@dataclass(slots=True)
class _Cuts:
    """Cuts of connections: once, at the nth message of a kind, or at random."""

    countdown: dict[Point, int] = field(default_factory=dict)
    odds: dict[Point, float] = field(default_factory=dict)

    def strike(self, point: Point, rng: Random) -> bool:
        if point in self.odds and rng.random() < self.odds[point]:
            return True
        if point not in self.countdown:
            return False
        self.countdown[point] -= 1
        if self.countdown[point] > 0:
            return False
        del self.countdown[point]
        return True


class FaultProxy:
    """Listens on a free loopback port until it is closed.

    `counts` has the number of `connections`, `unreachable` (refused by upstream), `reset`,
    `half-opened`, `dropped` (bytes), `garbled` (connections), `seen <point>` and `cut <point>`.
    """

    def __init__(
        self,
        upstream_host: str,
        upstream_port: int,
        *,
        watch: Callable[[], Watch] = Unwatched,
        seed: int = 0,
    ) -> None:
        self.port = choose_ports(["proxy"], {})["proxy"]
        self.counts: Counter[str] = Counter()
        self._upstream = (upstream_host, upstream_port)
        self._watch = watch
        # Two generators, because the number of chunks depends on TCP, and the number of messages does not.
        self._jitter_rng = Random(seed)
        self._cuts_rng = Random(seed)
        self._ways = dict.fromkeys(Direction, CLEAR)
        self._cuts = _Cuts()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)

    @classmethod
    def before(cls, url: str, *, watch: Callable[[], Watch] = Unwatched, seed: int = 0) -> Self:
        """A proxy in front of the host of a URL, which must name its port."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        return cls(parts.hostname, parts.port, watch=watch, seed=seed)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def via(self, url: str) -> str:
        """The same URL with the address of this proxy."""
        parts = urlsplit(url)
        credentials = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{credentials}@{LOOPBACK}:{self.port}").geturl()

    def shape(self, way: Way, *directions: Direction) -> None:
        """Set the treatment of these directions (by default both) for all connections."""

        async def change() -> None:
            for direction in directions or Direction:
                self._ways[direction] = way
            self._wake()

        self._run(change())

    def reset(self) -> None:
        """Send both ends of every connection an RST."""

        async def change() -> None:
            for connection in list(self._connections):
                connection.abort()
                self.counts["reset"] += 1

        self._run(change())

    def refuse(self) -> None:
        """Refuse new connections, as a closed port does."""

        async def change() -> None:
            if self._server is not None:
                self._server.close()
                self._server = None

        self._run(change())

    def half_open(self) -> None:
        """Close the server's side of every connection; the client gets neither a reset nor an answer."""

        async def change() -> None:
            for connection in self._connections:
                connection.half_open()
                self.counts["half-opened"] += 1

        self._run(change())

    def cut(self, point: Point, nth: int = 1) -> None:
        """Cut the connection at the nth such message from now, which is not forwarded."""

        async def change() -> None:
            self._cuts.countdown[point] = nth

        self._run(change())

    def cut_randomly(self, point: Point, probability: float) -> None:
        """Cut at each such message with this probability, until healed."""

        async def change() -> None:
            self._cuts.odds[point] = probability

        self._run(change())

    def heal(self) -> None:
        """End every fault. Deliver held bytes; reset half-open connections and those with losses."""

        async def change() -> None:
            self._cuts = _Cuts()
            self._ways = dict.fromkeys(Direction, CLEAR)
            for connection in list(self._connections):
                if connection.is_beyond_repair:
                    connection.abort()
            self._wake()
            await self._listen()

        self._run(change())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(ANSWER_SECONDS)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._take, LOOPBACK, self.port)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()
        if self._tasks:
            await asyncio.wait(self._tasks)
        # The transports close in the next iteration of the loop.
        await asyncio.sleep(0)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "each connection is served by a task of its own"
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            upstream = await asyncio.open_connection(*self._upstream)
        except OSError:
            self.counts["unreachable"] += 1
            _abort(writer)
            return
        self.counts["connections"] += 1
        connection = _Connection(self, self._watch(), (reader, writer), upstream)
        self._connections.add(connection)
        try:
            await connection.serve()
        finally:
            connection.abort()
            self._connections.discard(connection)

    # Only for connections.

    def lateness(self, direction: Direction) -> float:
        way = self._ways[direction]
        return way.latency.total_seconds() + way.jitter.total_seconds() * self._jitter_rng.random()

    async def way(self, direction: Direction) -> Way:
        """The current treatment; waits while bytes are held."""
        while self._ways[direction].flow is Flow.HELD:
            await self._changed.wait()
        return self._ways[direction]

    def strikes(self, point: Point) -> bool:
        self.counts[f"seen {point}"] += 1
        if not self._cuts.strike(point, self._cuts_rng):
            return False
        self.counts[f"cut {point}"] += 1
        return True


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Lost(Exception):
    """One end was reset."""


class _Connection:
    def __init__(self, proxy: FaultProxy, watch: Watch, client: Streams, server: Streams) -> None:
        self._proxy = proxy
        self._watch = watch
        self._client = client
        self._server = server
        self._has_lost_bytes = False
        self._is_half_open = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_beyond_repair(self) -> bool:
        return self._has_lost_bytes or self._is_half_open

    async def serve(self) -> None:
        """Return when both directions have ended, or one end was reset."""
        passages = (
            (Direction.TO_SERVER, self._client[0], self._server[1]),
            (Direction.TO_CLIENT, self._server[0], self._client[1]),
        )
        arrivals: list[asyncio.Task[None]] = []
        for direction, source, target in passages:
            under_way: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(CHUNKS_UNDER_WAY)
            arrivals.append(asyncio.create_task(self._read_chunks(direction, source, under_way)))
            self._tasks.append(asyncio.create_task(self._forward(direction, under_way, target)))
        try:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in (*arrivals, *self._tasks):
                task.cancel()
            ends = await asyncio.gather(*arrivals, *self._tasks, return_exceptions=True)
            self._proxy.counts["garbled"] += sum(isinstance(end, Garbled) for end in ends)

    def abort(self) -> None:
        for _, writer in (self._client, self._server):
            _abort(writer)
        for task in self._tasks:
            task.cancel()

    def half_open(self) -> None:
        self._is_half_open = True
        self._server[1].close()

    async def _read_chunks(
        self,
        direction: Direction,
        source: asyncio.StreamReader,
        under_way: "asyncio.Queue[tuple[float, bytes | None]]",
    ) -> None:
        """Read chunks, each with its time of arrival. An empty chunk is the end, None a reset."""
        clock = asyncio.get_running_loop().time
        due = 0.0
        chunk: bytes | None = b"-"
        while chunk:
            try:
                chunk = await source.read(CHUNK)
            except OSError:
                chunk = None
            due = max(due, clock() + self._proxy.lateness(direction))
            await under_way.put((due, chunk))

    async def _forward(
        self,
        direction: Direction,
        under_way: "asyncio.Queue[tuple[float, bytes | None]]",
        target: asyncio.StreamWriter,
    ) -> None:
        """Raises: _Lost, Garbled, OSError: The connection has ended."""
        clock = asyncio.get_running_loop().time
        while True:
            due, chunk = await under_way.get()
            await asyncio.sleep(due - clock())
            way = await self._proxy.way(direction)
            if self._is_half_open:
                # Nothing is forwarded any more; the connection ends when the client closes it too.
                if direction is Direction.TO_SERVER and not chunk:
                    raise _Lost
                if not chunk:
                    return
            elif way.flow is Flow.DROPPED:
                self._has_lost_bytes = True
                self._proxy.counts["dropped"] += len(chunk or b"")
                if not chunk:
                    return
            elif chunk is None:
                raise _Lost
            elif not chunk:
                if target.can_write_eof():
                    target.write_eof()
                return
            else:
                await self._send(direction, chunk, way, target)

    async def _send(self, direction: Direction, chunk: bytes, way: Way, target: asyncio.StreamWriter) -> None:
        for message, point in _joined(self._watch.feed(direction, chunk)):
            if point is not None and self._proxy.strikes(point):
                raise _Lost
            target.write(message)
            await target.drain()
            if way.bytes_per_second is not None:
                await asyncio.sleep(len(message) / way.bytes_per_second)


def _joined(pieces: list[Piece]) -> Iterator[Piece]:
    """Join neighbouring messages that cannot be cut."""
    plain: list[bytes] = []
    for message, point in pieces:
        if point is None:
            plain.append(message)
            continue
        if plain:
            yield b"".join(plain), None
            plain = []
        yield message, point
    if plain:
        yield b"".join(plain), None


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close with an RST."""
    connection = writer.get_extra_info("socket")
    if connection is not None and not writer.transport.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()
