"""How a command ends that failed: one sentence, and an exit code."""

from typing import NoReturn

import asyncpg

from worker.broker_errors import BrokerRefused, BrokerUnavailable, TopologyMismatch
from worker.database import DatabaseUnavailable, SessionsNotKept, TransactionConflict
from worker.failure import describe
from worker.ingest.spool import SpoolTaken
from worker.invocation import FAILED, MISCONFIGURED, TEMPORARY, UNAVAILABLE, fail
from worker.listening import CannotListen
from worker.management import ManagementUnavailable
from worker.runtime import DatabaseBehind, EndedByItself
from worker.settings import BadSettings


def end(error: Exception) -> NoReturn:
    """Raises: The error itself, where nobody expected it."""
    match error:
        case BadSettings() | DatabaseBehind() | TopologyMismatch() | CannotListen() | SessionsNotKept():
            fail(MISCONFIGURED, str(error))
        case BrokerRefused():
            fail(MISCONFIGURED, f"the broker refused: {error}")
        case BrokerUnavailable():
            fail(UNAVAILABLE, f"cannot reach the broker ({error}): see STOCKHOOK_AMQP_URL")
        case DatabaseUnavailable():
            fail(UNAVAILABLE, f"cannot reach the database ({error}): see STOCKHOOK_DATABASE_URL")
        case asyncpg.PostgresError() | TransactionConflict():
            fail(FAILED, f"it failed: {describe(error)}")
        case EndedByItself():
            fail(FAILED, str(error))
        case ManagementUnavailable():
            fail(UNAVAILABLE, f"no answer from the management API ({error})")
        case SpoolTaken():
            fail(TEMPORARY, str(error))
        case OSError():
            # A file, a disk or a network failed, not the code.
            where = f" ({error.filename!r})" if error.filename else ""
            fail(FAILED, f"the operating system refused: {error.strerror or error}{where}; {describe(error)}")
        case _:
            raise error
