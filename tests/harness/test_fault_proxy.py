"""The fault proxy injects each fault into real connections."""

import asyncio
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from random import Random
from time import monotonic
from uuid import uuid4

import aio_pika
import asyncpg
import pytest

from deploy.local.services import Services
from tests.support.amqp_frames import AmqpWatch, Frames, method_of
from tests.support.fault_proxy import CLEAR, FaultProxy, Flow, Way
from tests.support.postgres_messages import PostgresWatch
from tests.support.protocol_watch import Direction, Garbled, Point
from tests.support.stack import until
from worker.postgres.durability import WRITE_TO_LOG

SLOW = timedelta(milliseconds=200)
NO_ANSWER_SECONDS = 0.3

# A frame of each kind: method basic.publish on channel 1, content header, body, heartbeat.
FRAMES = (
    b"\x01\x00\x01\x00\x00\x00\x06\x00\x3c\x00\x28\x00\x00\xce",
    b"\x02\x00\x01\x00\x00\x00\x0e\x00\x3c\x00\x00" + bytes(10) + b"\xce",
    b"\x03\x00\x01\x00\x00\x00\x03\xce\xce\xce\xce",
    b"\x08\x00\x00\x00\x00\x00\x00\xce",
)


@contextmanager
def echo_server() -> Iterator[int]:
    """Echo received bytes with blocking sockets and threads; close when the other side does."""
    with ExitStack() as cleanup:
        listener = cleanup.enter_context(socket.create_server(("127.0.0.1", 0)))
        connections: list[socket.socket] = []

        def echo(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                while data := connection.recv(65_536):
                    connection.sendall(data)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connections.append(connection)
                    threading.Thread(target=echo, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with echo_server() as port, FaultProxy("127.0.0.1", port) as made:
        yield made


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[socket.socket]:
    with connected(proxy) as made:
        assert exchange(made, b"hello") == b"hello"
        yield made


def connected(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def exchange(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return receive(client, len(data))


def receive(client: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        chunk = client.recv(65_536)
        if not chunk:
            break
        received += chunk
    return received


def gets_nothing(client: socket.socket) -> bool:
    """Whether neither a byte, nor the end, nor a reset arrives."""
    before = client.gettimeout()
    client.settimeout(NO_ANSWER_SECONDS)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(before)
    return False


def test_bytes_pass_unchanged_both_ways_and_so_does_the_end(client: socket.socket) -> None:
    data = Random(1).randbytes(3_000_000)
    sending = threading.Thread(target=client.sendall, args=(data,))
    sending.start()
    received = receive(client, len(data))
    sending.join()
    client.shutdown(socket.SHUT_WR)

    assert received == data
    assert client.recv(1) == b""


@pytest.mark.parametrize("direction", list(Direction))
def test_latency_ends_when_it_is_healed(
    proxy: FaultProxy, client: socket.socket, direction: Direction
) -> None:
    proxy.shape(Way(latency=SLOW, jitter=SLOW), direction)
    began = monotonic()
    exchange(client, b"slow")

    assert monotonic() - began >= SLOW.total_seconds()

    proxy.shape(Way(latency=timedelta(hours=1)), direction)
    proxy.heal()
    exchange(client, b"fast")


def test_a_throttled_direction_takes_its_time(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.shape(Way(bytes_per_second=20_000), Direction.TO_CLIENT)
    began = monotonic()
    first = exchange(client, bytes(5_000))
    second = exchange(client, bytes(1))

    assert (len(first), len(second)) == (5_000, 1)
    assert monotonic() - began >= 0.2


def test_a_reset_reaches_the_client_and_new_connections_work(
    proxy: FaultProxy, client: socket.socket
) -> None:
    proxy.reset()

    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with connected(proxy) as another:
        assert exchange(another, b"again") == b"again"
    assert proxy.counts["reset"] == 1


def test_new_connections_are_refused_until_healed_while_the_old_live(
    proxy: FaultProxy, client: socket.socket
) -> None:
    proxy.refuse()

    with pytest.raises(ConnectionRefusedError):
        connected(proxy)
    assert exchange(client, b"still here") == b"still here"
    proxy.heal()
    with connected(proxy) as another:
        assert exchange(another, b"again") == b"again"


def test_a_half_open_connection_is_silent_until_it_is_healed(
    proxy: FaultProxy, client: socket.socket
) -> None:
    proxy.half_open()
    client.sendall(b"anybody there?")

    assert gets_nothing(client)
    proxy.heal()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


@pytest.mark.parametrize("direction", list(Direction))
def test_held_bytes_arrive_when_healed(
    proxy: FaultProxy, client: socket.socket, direction: Direction
) -> None:
    proxy.shape(Way(Flow.HELD), direction)
    client.sendall(b"wait")

    assert gets_nothing(client)
    proxy.heal()
    assert receive(client, 4) == b"wait"


@pytest.mark.parametrize("direction", list(Direction))
def test_dropped_bytes_never_arrive_and_the_connection_is_reset_when_healed(
    proxy: FaultProxy, client: socket.socket, direction: Direction
) -> None:
    proxy.shape(Way(Flow.DROPPED), direction)
    client.sendall(b"gone")

    assert gets_nothing(client)
    proxy.shape(CLEAR)
    assert exchange(client, b"here") == b"here"
    proxy.heal()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert proxy.counts["dropped"] == 4


def test_a_connection_is_reset_when_the_server_is_absent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        port = placeholder.getsockname()[1]
    with (
        FaultProxy("127.0.0.1", port) as proxy,
        pytest.raises(ConnectionResetError),
        connected(proxy) as client,
    ):
        client.recv(1)

    assert proxy.counts["unreachable"] == 1


def test_frames_are_complete_after_any_segmentation() -> None:
    stream = b"AMQP\x00\x00\x09\x01" + b"".join(FRAMES)
    rng = Random(1)
    for _ in range(200):
        cuts = sorted(rng.choices(range(len(stream) + 1), k=rng.randrange(12)))
        parts = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        frames = Frames()
        complete = [frame for part in parts for frame in frames.feed(part)]

        assert complete == [stream[:8], *FRAMES]
    assert [method_of(frame) for frame in FRAMES] == [(60, 40), None, None, None]


def test_bytes_that_are_no_frame_are_garbled() -> None:
    with pytest.raises(Garbled):
        Frames().feed(b"\x01\x00\x01\x00\x00\x00\x01\x00\x00")


def test_postgres_messages_are_complete_after_any_segmentation() -> None:
    start = b"\x00\x00\x00\x08\x04\xd2\x16\x2f" + b"\x00\x00\x00\x09\x00\x03\x00\x00\x00"
    commit = b"Q\x00\x00\x00\x0cCOMMIT;\x00"
    flush = b"Q" + struct.pack("!I", len(WRITE_TO_LOG) + 5) + WRITE_TO_LOG.encode() + b"\x00"
    sent = start + commit + flush
    for chunk in (1, 2, 3, 7, 200):
        watch = PostgresWatch()
        pieces = [
            piece
            for at in range(0, len(sent), chunk)
            for piece in watch.feed(Direction.TO_SERVER, sent[at : at + chunk])
        ]
        answers = watch.feed(Direction.TO_CLIENT, b"NC\x00\x00\x00\x0bCOMMIT\x00Z\x00\x00\x00\x05I")

        assert pieces == [
            (start[:8], None),
            (start[8:], None),
            (commit, Point.COMMIT),
            (flush, Point.FLUSH),
        ]
        assert [point for _, point in answers] == [None, Point.COMMITTED, None]


Connect = Callable[[], "asyncio.Future[asyncpg.Connection[asyncpg.Record]]"]


async def insert(url: str, number: int) -> None:
    """Insert in a transaction, as the product does."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("INSERT INTO seen VALUES ($1)", number)
    finally:
        connection.terminate()


@pytest.fixture
async def database(fresh_database: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(fresh_database)
    await connection.execute("CREATE TABLE seen (number integer)")
    yield connection
    await connection.close()


async def test_after_a_cut_before_commit_the_row_is_missing(
    fresh_database: str, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    with FaultProxy.before(fresh_database, watch=PostgresWatch) as proxy:
        proxy.cut(Point.COMMIT)
        with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
            await insert(proxy.via(fresh_database), 1)
        await insert(proxy.via(fresh_database), 2)

    assert [row["number"] for row in await database.fetch("SELECT number FROM seen")] == [2]
    assert (proxy.counts["seen commit"], proxy.counts["cut commit"]) == (2, 1)


async def test_after_a_cut_after_commit_the_row_exists_although_the_client_got_an_error(
    fresh_database: str, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    with FaultProxy.before(fresh_database, watch=PostgresWatch) as proxy:
        proxy.cut(Point.COMMITTED, nth=2)
        await insert(proxy.via(fresh_database), 1)
        with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
            await insert(proxy.via(fresh_database), 2)

    assert [row["number"] for row in await database.fetch("SELECT number FROM seen")] == [1, 2]
    assert (proxy.counts["seen committed"], proxy.counts["cut committed"]) == (2, 1)


async def test_large_results_and_prepared_statements_pass_a_watched_proxy(
    fresh_database: str, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    with FaultProxy.before(fresh_database, watch=PostgresWatch) as proxy:
        connection = await asyncpg.connect(proxy.via(fresh_database))
        rows = await connection.fetch("SELECT n, repeat('x', 2000) AS x FROM generate_series(1, $1) n", 2000)
        await connection.close()

    assert sum(len(row["x"]) for row in rows) == 4_000_000


@asynccontextmanager
async def channel(url: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    connection = await aio_pika.connect(url, timeout=60)
    try:
        yield await connection.channel(publisher_confirms=True, on_return_raises=True)
    finally:
        with suppress(Exception):
            await asyncio.wait_for(connection.close(), 60)


async def publish(url: str, queue: str, body: bytes) -> None:
    async with channel(url) as made:
        await made.default_exchange.publish(aio_pika.Message(body), queue, timeout=60)


@pytest.fixture
async def queue(services: Services) -> AsyncIterator[str]:
    name = f"chaos.{uuid4().hex}"
    async with channel(services.amqp_url) as made:
        await made.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})
        yield name
        await made.queue_delete(name)


async def bodies(url: str, queue: str, expected: int) -> list[bytes]:
    """All bodies in the queue, once it has the expected number."""
    async with channel(url) as made:
        declared = await made.get_queue(queue)
        received: list[bytes] = []

        async def take() -> bool:
            while (message := await declared.get(no_ack=True, fail=False)) is not None:
                received.append(message.body)
            return len(received) >= expected

        await until(take, f"{expected} messages are in the queue")
        return received


async def test_after_a_cut_before_a_publish_the_message_is_missing(services: Services, queue: str) -> None:
    with FaultProxy.before(services.amqp_url, watch=AmqpWatch) as proxy:
        url = proxy.via(services.amqp_url)
        proxy.cut(Point.PUBLISH)
        with pytest.raises((aio_pika.exceptions.AMQPError, OSError)):
            await publish(url, queue, b"first")
        await publish(url, queue, b"second")

    assert await bodies(services.amqp_url, queue, 1) == [b"second"]
    assert (proxy.counts["seen publish"], proxy.counts["cut publish"]) == (2, 1)


async def test_after_a_cut_before_the_confirm_the_message_exists_although_the_client_got_an_error(
    services: Services, queue: str
) -> None:
    with FaultProxy.before(services.amqp_url, watch=AmqpWatch) as proxy:
        url = proxy.via(services.amqp_url)
        proxy.cut(Point.CONFIRM)
        with pytest.raises((aio_pika.exceptions.AMQPError, OSError)):
            await publish(url, queue, b"first")
        await publish(url, queue, b"second")

    assert await bodies(services.amqp_url, queue, 2) == [b"first", b"second"]
    assert (proxy.counts["seen confirm"], proxy.counts["cut confirm"]) == (2, 1)


async def test_a_large_message_passes_a_watched_proxy(services: Services, queue: str) -> None:
    body = Random(1).randbytes(1_000_000)
    with FaultProxy.before(services.amqp_url, watch=AmqpWatch) as proxy:
        await publish(proxy.via(services.amqp_url), queue, body)

        assert await bodies(proxy.via(services.amqp_url), queue, 1) == [body]


async def test_random_cuts_are_the_same_for_the_same_seed(services: Services, queue: str) -> None:
    runs = []
    for seed in (7, 7, 8):
        cut = []
        with FaultProxy.before(services.amqp_url, watch=AmqpWatch, seed=seed) as proxy:
            proxy.cut_randomly(Point.PUBLISH, 0.5)
            for number in range(12):
                try:
                    await publish(proxy.via(services.amqp_url), queue, b"")
                except (aio_pika.exceptions.AMQPError, OSError):
                    cut.append(number)
        runs.append(cut)

    assert runs[0] == runs[1] != runs[2]
    assert 0 < len(runs[0]) < 12
