"""Lost sessions: their errors, and that none is used again."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

import asyncpg
import pytest

from deploy.local.services import Services
from tests.support.stack import until
from worker.postgres import pool as module
from worker.postgres.failures import DatabaseUnavailable, TransactionConflict
from worker.postgres.pool import Connection, Database

OWN_PID = "SELECT pg_backend_pid()"
MARKED = "seen"

# With this option, closing a socket sends RST instead of FIN.
NO_LINGER = struct.pack("ii", 1, 0)


class Relay:
    """A TCP relay to Postgres that can inject server messages, reset connections, and drop answers."""

    def __init__(self, upstream: str) -> None:
        self._url = urlsplit(upstream)
        self._clients: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_silent = False

    @property
    def url(self) -> str:
        credentials = self._url.netloc.rpartition("@")[0]
        port = self._server.sockets[0].getsockname()[1]
        return self._url._replace(netloc=f"{credentials}@127.0.0.1:{port}", query="sslmode=disable").geturl()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def close(self) -> None:
        self._server.close()
        for client in self._clients:
            client.close()
        await asyncio.gather(*self._tasks)

    def say(self, message: bytes) -> None:
        for client in self._clients:
            client.write(message)

    def reset(self) -> None:
        for client in self._clients:
            client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            client.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._clients.add(writer)
        from_server, to_server = await asyncio.open_connection(self._url.hostname, self._url.port)
        ways = [
            asyncio.create_task(self._pass_on(reader, to_server)),
            asyncio.create_task(self._pass_on(from_server, writer)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)
        self._clients.discard(writer)
        for one in (writer, to_server):
            one.close()
            with suppress(OSError):
                await one.wait_closed()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if not (self.is_silent and writer in self._clients):
                    writer.write(data)
        if self.is_silent and writer in self._clients:
            # The server does not even report its end.
            await asyncio.Event().wait()


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", 4 + len(body)) + body


# The message of a server that shuts down. The setting shows that the driver has read it.
END_OF_SESSION = message(b"E", b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0") + message(
    b"S", f"application_name\0{MARKED}\0".encode()
)


@pytest.fixture
async def relay(services: Services) -> AsyncIterator[Relay]:
    made = Relay(services.database_url)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def database(relay: Relay) -> AsyncIterator[Database]:
    made = Database(relay.url, 3, "test")
    yield made
    await made.close()


async def end_by_message(relay: Relay, connection: Connection) -> None:
    """Send the message without the end of the connection, as happens under load."""
    relay.say(END_OF_SESSION)

    async def is_read() -> bool:
        return bool(connection.get_settings().application_name == MARKED)

    await until(is_read, "the driver has read that its session is over")


async def end_by_reset(relay: Relay, connection: Connection) -> None:
    relay.reset()


async def end_by_terminating(relay: Relay, connection: Connection) -> None:
    other = await asyncpg.connect(relay.url)
    await other.execute("SELECT pg_terminate_backend($1, 5000)", await connection.fetchval(OWN_PID))
    await other.close()


WAYS = [end_by_message, end_by_reset, end_by_terminating]


@pytest.mark.parametrize("end", WAYS)
async def test_a_session_that_ends_in_a_transaction_means_unavailable_and_the_next_one_works(
    database: Database, relay: Relay, end: Callable[[Relay, Connection], Awaitable[None]]
) -> None:

    async def work() -> None:
        async with database.transaction() as connection:
            await connection.execute("SELECT 1")
            await end(relay, connection)
            await connection.fetch("SELECT 2")

    with pytest.raises(DatabaseUnavailable):
        await work()
    await database.ping()


@pytest.mark.parametrize("end", WAYS)
async def test_a_commit_over_a_session_that_ended_means_unavailable(
    database: Database, relay: Relay, end: Callable[[Relay, Connection], Awaitable[None]]
) -> None:

    async def work() -> None:
        async with database.transaction() as connection:
            await end(relay, connection)

    with pytest.raises(DatabaseUnavailable):
        await work()
    await database.ping()


async def test_an_error_of_ours_over_a_session_that_ended_means_unavailable(
    database: Database, relay: Relay
) -> None:

    async def work() -> None:
        async with database.transaction() as connection:
            await end_by_terminating(relay, connection)
            raise ValueError

    with pytest.raises(DatabaseUnavailable):
        await work()


async def test_sessions_that_ended_while_idle_cause_at_most_one_failure(
    database: Database, relay: Relay
) -> None:
    async with database.connection() as first, database.connection() as second:
        await end_by_message(relay, first)
        await end_by_message(relay, second)

    with pytest.raises(DatabaseUnavailable, match="InternalClientError"):
        await database.ping()
    await database.ping()


async def test_a_server_that_stops_answering_means_unavailable_within_one_deadline(
    services: Services, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STATEMENT_TIMEOUT_MS", 500)
    database = Database(relay.url, 1, "test")

    async def work() -> None:
        async with database.transaction() as connection:
            relay.is_silent = True
            await connection.execute("SELECT 1")

    try:
        with pytest.raises(DatabaseUnavailable, match="TimeoutError"):
            await work()
        relay.is_silent = False
        await database.ping()
    finally:
        await database.close()


async def test_a_session_that_was_cancelled_in_a_statement_is_closed(database: Database) -> None:
    pids: list[int] = []

    async def work() -> None:
        async with database.transaction() as connection:
            pids.append(await connection.fetchval(OWN_PID))
            await connection.execute("SELECT pg_sleep(60)")

    async def is_at_work() -> bool:
        return bool(pids)

    task = asyncio.create_task(work())
    await until(is_at_work, "the statement has started")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with database.connection() as connection:
        pids.append(await connection.fetchval(OWN_PID))

    assert pids[0] != pids[1]


async def test_errors_that_leave_a_session_as_it_was_keep_it(database: Database) -> None:
    pids: set[int] = set()
    for statement in ("SELECT 1/0", "SELECT 1"):
        with suppress(asyncpg.DivisionByZeroError, KeyError):
            async with database.transaction() as connection:
                pids.add(await connection.fetchval(OWN_PID))
                await connection.execute(statement)
                raise KeyError
    async with database.connection() as connection:
        pids.add(await connection.fetchval(OWN_PID))

    assert len(pids) == 1


async def test_large_values_are_compressed_with_lz4_where_the_server_has_it(database: Database) -> None:
    async with database.connection() as connection:
        methods = await connection.fetchval(
            "SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'"
        )
        await connection.execute(
            "CREATE TEMP TABLE large AS "
            "SELECT string_agg(number::text, ' ') AS value FROM generate_series(1, 2000) AS number"
        )
        method = await connection.fetchval("SELECT pg_column_compression(value) FROM large")

    assert method == ("lz4" if "lz4" in methods else "pglz")


async def test_once_a_server_takes_no_writes_all_sessions_to_it_are_closed(database: Database) -> None:
    """Including sessions in use, because one that only listens would never notice."""

    async def write() -> None:
        async with database.connection() as connection:
            await connection.execute("SET default_transaction_read_only = on")
            await connection.execute("CREATE TABLE written ()")

    async def listen() -> None:
        async with database.connection() as listener:
            with pytest.raises(DatabaseUnavailable, match="accepts no writes"):
                await write()
            await listener.execute("SELECT 1")

    with pytest.raises(DatabaseUnavailable):
        await listen()


async def test_a_server_that_takes_no_writes_is_noticed_by_a_ping(fresh_database: str) -> None:
    name = urlsplit(fresh_database).path.removeprefix("/")
    database = Database(fresh_database, 1, "test")
    try:
        async with database.connection() as connection:
            await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            await connection.execute("SET default_transaction_read_only = on")
        with pytest.raises(DatabaseUnavailable, match="accepts no writes"):
            await database.ping()
        other = await asyncpg.connect(fresh_database)
        await other.execute("SET default_transaction_read_only = off")
        await other.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await other.close()
        await database.ping()
    finally:
        await database.close()


async def test_a_plan_that_the_schema_outdated_is_a_conflict_and_is_made_anew(fresh_database: str) -> None:
    database = Database(fresh_database, 1, "test")
    other = await asyncpg.connect(fresh_database)
    try:
        await other.execute("CREATE TABLE rows (a int)")
        async with database.transaction() as connection:
            await connection.fetch("SELECT * FROM rows")
        await other.execute("ALTER TABLE rows ADD b int")
        with pytest.raises(TransactionConflict, match="InvalidCachedStatementError"):
            async with database.transaction() as connection:
                await connection.fetch("SELECT * FROM rows")
        async with database.transaction() as connection:
            await connection.fetch("SELECT * FROM rows")
    finally:
        await other.close()
        await database.close()


async def test_a_host_that_never_answers_does_not_keep_the_next_one_from_being_tried(
    services: Services,
) -> None:
    parts = urlsplit(services.database_url)
    credentials, _, host = parts.netloc.rpartition("@")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        first = f"127.0.0.1:{silent.getsockname()[1]}"
        url = parts._replace(netloc=f"{credentials}@{first},{host}", query="connect_timeout=1").geturl()
        database = Database(url, 1, "test")
        try:
            await database.ping()
        finally:
            await database.close()
