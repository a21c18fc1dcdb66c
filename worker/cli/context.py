"""What commands share: flags, a database, JSON output, and errors."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, NoReturn

from cyclopts import Parameter

from worker.cli.terminal import say, say_json
from worker.config.settings import Settings
from worker.observability.errors import StockhookError
from worker.observability.exit_codes import USAGE
from worker.postgres.pool import Database

Flag = Annotated[bool, Parameter(negative=())]
Json = Annotated[bool, Parameter(name="--json", help="Print JSON.", negative=())]


@asynccontextmanager
async def open_database(
    settings: Settings, command: str, size: int = 2, *, no_timeouts: bool = False
) -> AsyncIterator[Database]:
    """A pool for one command. Postgres shows it as `stockhook/<command>`."""
    url = settings.database_url.get_secret_value()
    database = Database(url, size, f"stockhook/{command}", no_timeouts=no_timeouts)
    database.warn_of_ignored()
    try:
        yield database
    finally:
        await database.close()


def print_json(value: object) -> None:
    """Print JSON on one line. Values without a JSON type become text."""
    say_json(value)


def fail(code: int, sentence: str) -> NoReturn:
    """Print one sentence to standard error, and exit with this code."""
    say(f"stockhook: {sentence}", file=sys.stderr)
    sys.exit(code)


class WrongUsage(StockhookError):
    """The options are wrong or contradict each other. The text says which."""

    exit_code = USAGE
