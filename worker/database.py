"""The only pool of Postgres connections; driver errors become ours here.

error                                          | sessions closed       | raised as
the session is over, or no answer came         | it, and all idle ones | DatabaseUnavailable
the server takes no writes                     | all                   | DatabaseUnavailable
the server lacks disk, memory or the like      | none                  | DatabaseUnavailable
a conflict, or a plan that the schema outdated | none                  | TransactionConflict
cancelled, or the driver was misused           | it                    | as it is
anything else                                  | none                  | as it is
"""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from worker import metrics
from worker.failure import describe, refused_certificate

T = TypeVar("T")

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

# Of the whole way to a connection that can be used.
ACQUIRE_SECONDS = 10.0

# A standby's transactions are read-only too.
TAKES_WRITES = "SELECT NOT current_setting('transaction_read_only')::boolean"


class DatabaseUnavailable(Exception):
    """Postgres cannot be reached, refuses connections, or is starting, stopping or in recovery."""


class TransactionConflict(Exception):
    """The same again may well succeed: serialization failure, deadlock, lock timeout, outdated plan."""


class _TakesNoWrites(Exception):
    """A session on a server that was made read-only, or is a standby."""


# The session ends with it, whether or not the driver has noticed.
_SESSION_IS_OVER = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.DatabaseDroppedError,
    asyncpg.IdleSessionTimeoutError,
    # The server has other statements under these names: a pooler gave the session to others meanwhile.
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
    OSError,
    TimeoutError,
)
# What a failover leaves behind that keeps sessions: they go on, and can never write again.
_READ_ONLY = (asyncpg.ReadOnlySQLTransactionError, _TakesNoWrites)
# None of an event's making, and over once somebody has seen to it.
_LACKS_RESOURCES = (asyncpg.InsufficientResourcesError, asyncpg.PostgresSystemError)
_CONFLICTS = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    # The schema changed since a statement was prepared. The driver prepares it anew.
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
)
# FATAL and PANIC end a session, whatever their code.
_ENDING_SEVERITIES = ("FATAL", "PANIC")


async def blameless(work: Awaitable[T]) -> T:
    """Await what is written beside the events: whatever fails in it is no event's fault.

    Raises:
        DatabaseUnavailable
    """
    try:
        return await work
    except DatabaseUnavailable:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, TransactionConflict) else describe(error)
        raise DatabaseUnavailable(reason) from error


class _Session(asyncpg.Connection[asyncpg.Record] if TYPE_CHECKING else asyncpg.Connection):  # type: ignore[misc]  # generic in the stubs alone
    """One that is handed on as it is: nobody here leaves locks, cursors or settings behind."""

    is_idle = True

    def get_reset_query(self) -> str:
        return ""

    def itself(self) -> "_Session":
        """Asked of the pool's stand-in for a connection, which ends before the connection does."""
        return self


class Database:
    """A pool that needs no server to be made: it connects when it is used."""

    def __init__(self, url: str, size: int, application: str, *, unhurried: bool = False) -> None:
        """One that is `unhurried` gives no statement a limit: for long work that somebody watches."""
        self._url = url
        self._size = size
        self._application = application
        self._unhurried = unhurried
        self._pool: Pool | None = None
        self._sessions: WeakSet[_Session] = WeakSet()
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
        pool = await self._open_pool()
        connection = await self._acquire(pool)
        session = _session_of(connection)
        session.is_idle = False
        try:
            yield connection
        except Exception as error:
            self._raise_translated(error, session)
            raise
        except BaseException:
            # Whether a statement is still under way is not known.
            session.terminate()
            raise
        finally:
            session.is_idle = True
            await _release(pool, connection, session)

    async def _acquire(self, pool: Pool) -> Connection:
        """Raises: DatabaseUnavailable, whatever is wrong: before there is a session, no event is to blame."""
        self._waiting += 1
        try:
            return await pool.acquire(timeout=ACQUIRE_SECONDS)
        except Exception as error:
            raise DatabaseUnavailable(_reason(error)) from error
        finally:
            self._waiting -= 1

    def _raise_translated(self, error: Exception, session: _Session) -> None:
        """Raise what an error means, if that is anything else, and close what must not be used again."""
        if isinstance(error, _READ_ONLY):
            self._close_sessions(idle_alone=False)
            raise DatabaseUnavailable(_reason(error)) from error
        if session.is_closed() or _is_over(error):
            session.terminate()
            self._close_sessions(idle_alone=True)
            raise DatabaseUnavailable(_reason(error)) from error
        if isinstance(error, _CONFLICTS):
            raise TransactionConflict(describe(error)) from error
        if isinstance(error, _LACKS_RESOURCES):
            raise DatabaseUnavailable(_reason(error)) from error
        if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
            session.terminate()

    def _close_sessions(self, *, idle_alone: bool) -> None:
        """Without a word to the server: what is lost answers nothing, and ends its sessions by itself."""
        for session in list(self._sessions):
            if session.is_idle or not idle_alone:
                session.terminate()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Commits on leaving; raises as `connection` does. A lost COMMIT has an unknown outcome."""
        async with self.connection() as connection:
            session = _session_of(connection)
            transaction = connection.transaction()
            await transaction.start()
            try:
                yield connection
            except Exception as error:
                # A session that is over would not answer, and is closed.
                if not (session.is_closed() or _is_over(error)):
                    await transaction.rollback()
                raise
            await transaction.commit()

    async def ping(self) -> None:
        """See that it is there and takes writes.

        Raises:
            DatabaseUnavailable: Whatever is wrong.
        """
        await blameless(self._ping())

    async def _ping(self) -> None:
        async with self.connection() as connection:
            if not await connection.fetchval(TAKES_WRITES):
                raise _TakesNoWrites

    async def _open_pool(self) -> Pool:
        if self._pool is None:
            statement_timeout = "0" if self._unhurried else str(STATEMENT_TIMEOUT_MS)
            pool = asyncpg.create_pool(
                self._url,
                min_size=0,
                max_size=self._size,
                timeout=5,
                connection_class=_Session,
                init=self._begin_session,
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

    async def _begin_session(self, session: Any) -> None:
        self._sessions.add(session)


def _session_of(connection: Connection) -> _Session:
    session: _Session = connection.itself()  # type: ignore[attr-defined]  # what the pool made is one of ours
    return session


async def _release(pool: Pool, connection: Connection, session: _Session) -> None:
    """What was done stands, whatever becomes of the connection."""
    try:
        await pool.release(connection)
    except Exception:
        session.terminate()


def _is_over(error: Exception) -> bool:
    severity = getattr(error, "severity_en", None)
    return isinstance(error, _SESSION_IS_OVER) or severity in _ENDING_SEVERITIES


def _reason(error: Exception) -> str:
    """Why Postgres is unavailable, in words that quote no value."""
    cause = _first(error)
    if isinstance(cause, (*_READ_ONLY, asyncpg.TargetServerAttributeNotMatched)):
        return "it takes no writes: it is read-only, or a standby"
    return refused_certificate(cause) or describe(cause)


def _first(error: BaseException) -> BaseException:
    """What the driver said before it said that the connection is gone."""
    while isinstance(error, asyncpg.InterfaceError) and error.__context__ is not None:
        error = error.__context__
    return error
