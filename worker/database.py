"""The only pool of Postgres connections; driver errors become ours here."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from worker import metrics
from worker.failure import describe, refused_certificate

# Generic in the stubs alone.
if TYPE_CHECKING:
    Connection = PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = PoolConnectionProxy
    Pool = asyncpg.Pool

# What a statement may take before Postgres gives it up, and how long it may wait for a lock.
STATEMENT_TIMEOUT_MS = 8_000
LOCK_TIMEOUT_MS = 5_000


class DatabaseUnavailable(Exception):
    """Postgres cannot be reached, refuses connections, or is starting, stopping or in recovery."""


class TransactionConflict(Exception):
    """Serialization failure, deadlock or lock timeout: the same again may well succeed."""


_UNAVAILABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.DatabaseDroppedError,
    # Disk, memory, connections: none of an event's making, and over once somebody has seen to it.
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    OSError,
)
_CONFLICTS = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
)


@asynccontextmanager
async def _ending_hung(connection: Connection) -> AsyncIterator[None]:
    """A connection over which no answer came is ended: to clean it up would wait as long once more."""
    try:
        yield
    except TimeoutError:
        connection.terminate()
        raise


class _Session(asyncpg.Connection[asyncpg.Record] if TYPE_CHECKING else asyncpg.Connection):  # type: ignore[misc]  # generic in the stubs alone
    """One that is handed on as it is: nobody here leaves locks, cursors or settings behind."""

    def get_reset_query(self) -> str:
        return ""


class Database:
    """A pool that needs no server to be made: it connects when it is used."""

    def __init__(self, url: str, size: int, application: str, *, unhurried: bool = False) -> None:
        """One that is `unhurried` gives no statement a limit: for long work that somebody watches."""
        self._url = url
        self._size = size
        self._application = application
        self._unhurried = unhurried
        self._pool: Pool | None = None
        self._waiting = 0

    def measure(self) -> None:
        """Have the gauges say how the pool is, whenever they are read."""

        def idle() -> int:
            return 0 if self._pool is None else self._pool.get_idle_size()

        def in_use() -> int:
            return 0 if self._pool is None else self._pool.get_size() - self._pool.get_idle_size()

        metrics.DATABASE_CONNECTIONS.labels("idle").set_function(idle)
        metrics.DATABASE_CONNECTIONS.labels("in_use").set_function(in_use)
        metrics.DATABASE_WAITING.set_function(lambda: self._waiting)
        metrics.DATABASE_LIMIT.set(self._size)

    async def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Raises: DatabaseUnavailable, TransactionConflict; other errors pass through."""
        connection: Connection | None = None
        try:
            async with self._acquired() as connection, _ending_hung(connection):
                yield connection
        except _CONFLICTS as error:
            raise TransactionConflict from error
        except (*_UNAVAILABLE, TimeoutError) as error:
            raise DatabaseUnavailable(refused_certificate(error) or describe(error)) from error
        except asyncpg.PostgresError as error:
            # Whatever is wrong before there is a connection (a password, a database) is no event's fault.
            if connection is None:
                raise DatabaseUnavailable(describe(error)) from error
            raise
        except asyncpg.InterfaceError as error:
            # The driver says so of misuse too: only a connection that is gone means an outage.
            if connection is None or connection.is_closed():
                raise DatabaseUnavailable(describe(error)) from error
            raise

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Connection]:
        pool = await self._open_pool()
        acquiring = pool.acquire(timeout=10)
        self._waiting += 1
        try:
            connection = await acquiring
        finally:
            self._waiting -= 1
        try:
            yield connection
        finally:
            await pool.release(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Commits on leaving; raises as `connection` does. A lost COMMIT has an unknown outcome."""
        async with self.connection() as connection, connection.transaction(), _ending_hung(connection):
            yield connection

    async def ping(self) -> None:
        """Raises: DatabaseUnavailable."""
        async with self.connection() as connection:
            await connection.execute("SELECT 1")

    async def _open_pool(self) -> Pool:
        if self._pool is None:
            statement_timeout = "0" if self._unhurried else str(STATEMENT_TIMEOUT_MS)
            pool = asyncpg.create_pool(
                self._url,
                min_size=0,
                max_size=self._size,
                timeout=5,
                connection_class=_Session,
                command_timeout=None if self._unhurried else STATEMENT_TIMEOUT_MS / 1000 + 2,
                server_settings={
                    "application_name": self._application,
                    # A plan is kept: one that was made while a table was empty would go on reading the
                    # whole of it when it is full. All that we run often goes by key.
                    "enable_seqscan": "off",
                    "statement_timeout": statement_timeout,
                    # A process that was killed must not go on holding locks.
                    "client_connection_check_interval": "1000",
                    "lock_timeout": str(LOCK_TIMEOUT_MS),
                    "idle_in_transaction_session_timeout": statement_timeout,
                },
            )
            self._pool = await pool
        return self._pool
