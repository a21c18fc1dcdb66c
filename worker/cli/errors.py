"""How a command ends that failed: one sentence, and an exit code."""

from typing import NoReturn

from worker.amqp.errors import BrokerRefused, BrokerUnavailable, TopologyMismatch
from worker.amqp.management import ManagementUnavailable
from worker.cli.context import (
    FAILED,
    MISCONFIGURED,
    TEMPORARY,
    UNAVAILABLE,
    fail,
)
from worker.config.settings import BadSettings
from worker.ingest.spool.spool import SpoolTaken
from worker.observability.errors import safe_summary
from worker.observability.listening import CannotListen
from worker.postgres.errors import PostgresError
from worker.postgres.pool import DatabaseUnavailable, SessionsNotKept, TransactionConflict
from worker.processes.consumer_process import PendingMigrations, UnexpectedExit


def end(error: Exception) -> NoReturn:
    """Raises: The error itself, where nobody expected it."""
    match error:
        case BadSettings() | PendingMigrations() | TopologyMismatch() | CannotListen() | SessionsNotKept():
            fail(MISCONFIGURED, str(error))
        case BrokerRefused():
            fail(MISCONFIGURED, f"the broker refused: {error}")
        case BrokerUnavailable():
            fail(UNAVAILABLE, f"cannot reach the broker ({error}): see STOCKHOOK_AMQP_URL")
        case DatabaseUnavailable():
            fail(UNAVAILABLE, f"cannot reach the database ({error}): see STOCKHOOK_DATABASE_URL")
        case PostgresError() | TransactionConflict():
            fail(FAILED, f"it failed: {safe_summary(error)}")
        case UnexpectedExit():
            fail(FAILED, str(error))
        case ManagementUnavailable():
            fail(UNAVAILABLE, f"no answer from the management API ({error})")
        case SpoolTaken():
            fail(TEMPORARY, str(error))
        case OSError():
            # A file, a disk or a network failed, not the code.
            where = f" ({error.filename!r})" if error.filename else ""
            fail(
                FAILED,
                f"the operating system refused: {error.strerror or error}{where}; {safe_summary(error)}",
            )
        case _:
            raise error
