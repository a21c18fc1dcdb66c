"""The only pool of Postgres connections. It translates the driver's errors.

error                                          | sessions closed       | raised as
the session is over, or no answer came         | it, and all idle ones | DatabaseUnavailable
the server accepts no writes                   | all                   | DatabaseUnavailable
the server lacks disk, memory or the like      | none                  | DatabaseUnavailable
a conflict, or a plan that the schema outdated | none                  | TransactionConflict
cancelled, or the driver was misused           | it                    | as it is
anything else                                  | none                  | as it is
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import asyncpg
import structlog
from asyncpg.pool import PoolConnectionProxy

from worker.config.database_url import DatabaseUrl
from worker.observability import metrics
from worker.observability.errors import safe_summary
from worker.postgres.backends import backend_of, share_a_backend
from worker.postgres.failures import (
    CONFLICTS,
    LACKS_RESOURCES,
    READ_ONLY,
    AcceptsNoWrites,
    DatabaseUnavailable,
    SessionsShared,
    TransactionConflict,
    blameless,
    is_over,
    reason_of,
)

log = structlog.get_logger(__name__)

# Generic only in the stubs.
if TYPE_CHECKING:
    Connection = PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = PoolConnectionProxy
    Pool = asyncpg.Pool

# How long a statement may take, and how long it may wait for a lock.
STATEMENT_TIMEOUT_MS = 8_000
LOCK_TIMEOUT_MS = 5_000

# Until a connection of the pool is free and ready, without the time to connect.
ACQUIRE_SECONDS = 5.0

# How long we check whether a pooler shares its sessions.
PROBE_SECONDS = 4.0

# Whatever the server's or the role's default is: what is committed must survive a crash, and the loss of the
# primary if a standby is synchronous. `remote_apply` waits for more.
COMMIT_SYNCHRONOUSLY = """
SELECT set_config(
    'synchronous_commit',
    CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END,
    false
)
"""

BEGIN = "BEGIN"
# The warning names this function of Postgres as its source; its text depends on the server's language.
WAITS_FOR_STANDBY = "SyncRepWaitForLSN"
# Both statements are one message: the second one takes no further round trip.
BEGIN_ASYNCHRONOUSLY = "BEGIN; SET LOCAL synchronous_commit = off"

# A standby's transactions are read-only too.
ACCEPTS_WRITES = "SELECT NOT current_setting('transaction_read_only')::boolean"

# The default method takes a third of the time that Postgres needs to apply an event of 3 kB. A server without
# lz4 keeps its method.
COMPRESS_FAST = """
SELECT set_config(name, 'lz4', false)
FROM pg_settings
WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
"""


class Session(asyncpg.Connection[asyncpg.Record] if TYPE_CHECKING else asyncpg.Connection):  # type: ignore[misc]  # generic in the stubs alone
    """A session without a reset query: no code here leaves locks, cursors or settings behind."""

    is_idle = True

    def get_reset_query(self) -> str:
        return ""

    def itself(self) -> "Session":
        """The session itself: the pool's proxy for it is released earlier."""
        return self


class Database:
    """A pool that connects when it is first used."""

    def __init__(self, url: str, size: int, application: str, *, no_timeouts: bool = False) -> None:
        """With `no_timeouts`, statements have no time limit: for long work that a person watches."""
        self._url = DatabaseUrl.read(url)
        self._hosts = list(self._url.hosts)
        self._size = size
        self._application = application
        self._no_timeouts = no_timeouts
        self._pool: Pool | None = None
        self._sessions: WeakSet[Session] = WeakSet()
        self._sessions_checked = False
        self._waiting = 0

    def measure(self) -> None:
        def idle() -> int:
            return 0 if self._pool is None else self._pool.get_idle_size()

        def in_use() -> int:
            return 0 if self._pool is None else self._pool.get_size() - self._pool.get_idle_size()

        metrics.DATABASE_CONNECTIONS.labels("idle").set_function(idle)
        metrics.DATABASE_CONNECTIONS.labels("in_use").set_function(in_use)
        metrics.DATABASE_WAITING.set_function(lambda: self._waiting)
        metrics.DATABASE_LIMIT.set(self._size)

    def warn_of_ignored(self) -> None:
        """Log which parameters of the URL are ignored, and why."""
        for name, reason in self._url.ignored.items():
            log.warning("database_url.parameter_ignored", parameter=name, reason=reason)

    async def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Raises: DatabaseUnavailable, TransactionConflict; other errors pass through."""
        pool = await self._open_pool()
        connection = await self._acquire(pool)
        session = session_of(connection)
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
        """A failure to start a session is never caused by an event.

        Raises:
            DatabaseUnavailable
            SessionsShared
        """
        connect_seconds = self._url.connect_seconds * max(1, len(self._hosts))
        self._waiting += 1
        try:
            return await pool.acquire(timeout=ACQUIRE_SECONDS + connect_seconds)
        except (DatabaseUnavailable, SessionsShared):
            raise
        except Exception as error:
            raise DatabaseUnavailable(reason_of(error)) from error
        finally:
            self._waiting -= 1

    def _raise_translated(self, error: Exception, session: Session) -> None:
        """Translate an error of the driver, and close connections that must not be used again."""
        if isinstance(error, READ_ONLY):
            self._close_sessions(idle_only=False)
            raise DatabaseUnavailable(reason_of(error)) from error
        if session.is_closed() or is_over(error):
            session.terminate()
            self._close_sessions(idle_only=True)
            raise DatabaseUnavailable(reason_of(error)) from error
        if isinstance(error, CONFLICTS):
            raise TransactionConflict(safe_summary(error)) from error
        if isinstance(error, LACKS_RESOURCES):
            raise DatabaseUnavailable(reason_of(error)) from error
        if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
            session.terminate()

    def close_idle(self) -> None:
        """Close the idle sessions, so that the next ones lead to the server that the URL names now."""
        self._close_sessions(idle_only=True)

    def _close_sessions(self, *, idle_only: bool) -> None:
        """Close without a message to the server: a lost server does not answer."""
        for session in list(self._sessions):
            if session.is_idle or not idle_only:
                session.terminate()

    @asynccontextmanager
    async def transaction(self, *, asynchronously: bool = False) -> AsyncIterator[Connection]:
        """Commits on leaving; raises as `connection` does. A lost COMMIT has an unknown outcome.

        A commit is durable, unless it is made `asynchronously`: then a crash of the server can lose it until
        a flush follows it (worker/postgres/durability.py).
        """
        async with self.connection() as connection:
            session = session_of(connection)
            await connection.execute(BEGIN_ASYNCHRONOUSLY if asynchronously else BEGIN)
            try:
                yield connection
            except Exception as error:
                # A session that is over would not answer, and is closed.
                if not (session.is_closed() or is_over(error)):
                    await connection.execute("ROLLBACK")
                raise
            if await commit(connection, "COMMIT") != "COMMIT":
                raise RuntimeError("the transaction was rolled back: an error in it was ignored")

    async def ping(self) -> None:
        """Check that the server answers and accepts writes.

        Raises:
            DatabaseUnavailable: Whatever is wrong.
        """
        await blameless(self._ping())

    async def _ping(self) -> None:
        async with self.connection() as connection:
            if not await connection.fetchval(ACCEPTS_WRITES):
                raise AcceptsNoWrites

    async def _open_pool(self) -> Pool:
        if self._pool is None:
            connect: Any = self._connect
            pool = asyncpg.create_pool(
                min_size=0,
                max_size=self._size,
                connect=connect,
                connection_class=Session,
                init=self._begin_session,
            )
            self._pool = await pool
        return self._pool

    async def _connect(self, _dsn: None = None, **arguments: Any) -> Any:
        """Connect to the first usable host, which is tried first the next time.

        Raises:
            DatabaseUnavailable: No host can be used.
        """
        if not self._hosts:
            return await self._connect_to({}, arguments)
        refusals: list[str] = []
        for host, port in list(self._hosts):
            try:
                session = await self._connect_to({"host": host, "port": port}, arguments)
            except Exception as error:
                refusals.append(reason_of(error) if len(self._hosts) == 1 else f"{host}: {reason_of(error)}")
                last = error
                continue
            self._hosts.remove((host, port))
            self._hosts.insert(0, (host, port))
            return session
        raise DatabaseUnavailable("; ".join(refusals)) from last

    async def _connect_to(self, where: dict[str, Any], arguments: dict[str, Any]) -> Any:
        return await asyncpg.connect(
            self._url.dsn,
            **where,
            timeout=self._url.connect_seconds,
            command_timeout=None if self._no_timeouts else STATEMENT_TIMEOUT_MS / 1000 + 2,
            # The only parameter that poolers accept, and that matters before the session starts.
            server_settings={"application_name": self._application},
            **arguments,
        )

    async def _begin_session(self, session: Any) -> None:
        """Settings are made by statements: PgBouncer refuses them as parameters of the connection."""
        if not self._sessions_checked:
            await self._refuse_shared_sessions(session)
            self._sessions_checked = True
        settings = "".join(f"SET {name} = {value};" for name, value in self.session_settings.items())
        await session.execute(f"{settings}{COMMIT_SYNCHRONOUSLY};{COMPRESS_FAST}")
        self._sessions.add(session)

    @property
    def session_settings(self) -> dict[str, str]:
        """The settings requested for each session, as Postgres shows them."""
        statement_timeout = "0" if self._no_timeouts else str(STATEMENT_TIMEOUT_MS)
        return {
            # Plans are cached: a plan that was made for an empty table would scan the whole table
            # later. All frequent statements use keys.
            "enable_seqscan": "off",
            # `commit` depends on warnings.
            "client_min_messages": "warning",
            "statement_timeout": statement_timeout,
            # A killed process must not hold its locks.
            "client_connection_check_interval": "1000",
            "lock_timeout": str(LOCK_TIMEOUT_MS),
            "idle_in_transaction_session_timeout": statement_timeout,
        }

    async def _refuse_shared_sessions(self, session: Any) -> None:
        """Check whether a pooler gives two sessions the same backend in turn.

        Raises:
            SessionsShared
        """
        if await backend_of(session) == session.get_server_pid():
            return
        # There is a pooler: it invents the process id that it reports at the start.
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(PROBE_SECONDS):
                other = await self._connect(statement_cache_size=0)
                try:
                    if await share_a_backend(session, other):
                        raise SessionsShared
                finally:
                    other.terminate()


async def commit(connection: Connection, statement: str) -> str:
    """Execute a statement that commits, and return its status.

    Raises:
        DatabaseUnavailable: It is not durable on a synchronous standby, although Postgres answers that it
            succeeded; or it waited too long for another transaction's notifications.
    """
    messages: list[Any] = []

    def note(_connection: object, message: Any) -> None:
        messages.append(message)

    session = session_of(connection)
    session.add_log_listener(note)
    try:
        status = await connection.execute(statement)
    except asyncpg.LockNotAvailableError as error:
        # No event causes it.
        raise DatabaseUnavailable(safe_summary(error)) from error
    finally:
        session.remove_log_listener(note)
    if any(message.server_source_function == WAITS_FOR_STANDBY for message in messages):
        raise DatabaseUnavailable("a commit was cancelled before the synchronous standby confirmed it")
    return status


def session_of(connection: Connection) -> Session:
    session: Session = connection.itself()  # type: ignore[attr-defined]  # what the pool made is one of ours
    return session


async def _release(pool: Pool, connection: Connection, session: Session) -> None:
    """Finished work stays finished, whatever happens to the connection."""
    try:
        await pool.release(connection)
    except Exception:
        session.terminate()
