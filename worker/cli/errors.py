"""The end of a failed command: one sentence, and an exit code."""

from typing import NoReturn

from worker.cli.context import fail
from worker.observability.errors import StockhookError, safe_summary
from worker.observability.exit_codes import FAILED
from worker.postgres.errors import PostgresError


def exit_with(error: Exception) -> NoReturn:
    """Raises: The error itself, if it is not expected."""
    match error:
        case StockhookError():
            fail(error.exit_code, error.sentence)
        case PostgresError():
            fail(FAILED, f"it failed: {safe_summary(error)}")
        case OSError():
            # A file, a disk or a network failed, not the code.
            where = f" ({error.filename!r})" if error.filename else ""
            fail(
                FAILED,
                f"the operating system refused: {error.strerror or error}{where}; {safe_summary(error)}",
            )
        case _:
            raise error
