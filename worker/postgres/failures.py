"""What an error of the driver means: Postgres is unavailable, a repetition may succeed, or neither."""

from collections.abc import Awaitable
from typing import TypeVar

import asyncpg

from worker.observability.errors import StockhookError, refused_certificate, safe_summary
from worker.observability.exit_codes import MISCONFIGURED, UNAVAILABLE

T = TypeVar("T")

POOL_BY_SESSION = (
    "have it pool by session (in PgBouncer, pool_mode = session), or name Postgres itself in "
    "STOCKHOOK_DATABASE_URL"
)


class DatabaseUnavailable(StockhookError):
    """Postgres cannot be reached, refuses connections, or is starting, stopping or in recovery."""

    exit_code = UNAVAILABLE

    @property
    def sentence(self) -> str:
        return f"cannot reach the database ({self}): see STOCKHOOK_DATABASE_URL"


class TransactionConflict(StockhookError):
    """A repetition may succeed: serialization failure, deadlock, lock timeout, outdated plan."""

    @property
    def sentence(self) -> str:
        return f"it failed: {safe_summary(self)}"


class SessionsShared(StockhookError):
    """A pooler in front of Postgres shares its sessions between clients."""

    exit_code = MISCONFIGURED

    def __str__(self) -> str:
        return (
            "the pooler in front of Postgres shares its sessions between clients, which loses settings, "
            f"locks and notifications: {POOL_BY_SESSION}"
        )


class AcceptsNoWrites(Exception):
    """The session's server was made read-only, or is a standby."""


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

# After a failover that keeps sessions open: they continue, and can never write again.
READ_ONLY = (asyncpg.ReadOnlySQLTransactionError, AcceptsNoWrites)

# No event causes these, and they last until the server is repaired.
LACKS_RESOURCES = (asyncpg.InsufficientResourcesError, asyncpg.PostgresSystemError)

CONFLICTS = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    # The schema changed since a statement was prepared. The driver prepares it again.
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
)

# FATAL and PANIC end a session, whatever their code.
_ENDING_SEVERITIES = ("FATAL", "PANIC")


async def blameless(work: Awaitable[T]) -> T:
    """Await a write that belongs to no event: a failure in it counts against none.

    Raises:
        DatabaseUnavailable
    """
    try:
        return await work
    except DatabaseUnavailable:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, TransactionConflict) else safe_summary(error)
        raise DatabaseUnavailable(reason) from error


def is_over(error: Exception) -> bool:
    severity = getattr(error, "severity_en", None)
    return isinstance(error, _SESSION_IS_OVER) or severity in _ENDING_SEVERITIES


def reason_of(error: Exception) -> str:
    """Why Postgres is unavailable, without quoting a value."""
    cause = _first(error)
    if isinstance(cause, (*READ_ONLY, asyncpg.TargetServerAttributeNotMatched)):
        return "it accepts no writes: it is read-only, or a standby"
    return refused_certificate(cause) or safe_summary(cause)


def _first(error: BaseException) -> BaseException:
    """The driver's first error, before the one that the connection is closed."""
    while isinstance(error, asyncpg.InterfaceError) and error.__context__ is not None:
        error = error.__context__
    return error
