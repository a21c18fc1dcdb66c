"""What every command shares: its settings and logs, a database while it lasts, JSON, how it ends."""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, NoReturn

from cyclopts import Parameter

from worker.cli.terminal import say, say_json
from worker.config.settings import Settings, read_settings
from worker.observability.logging import configure
from worker.postgres.pool import Database

# Exit codes of sysexits.h where there is one.
FAILED = 1
USAGE = 2
UNAVAILABLE = 69
TEMPORARY = 75
MISCONFIGURED = 78

Flag = Annotated[bool, Parameter(negative=())]
Json = Annotated[bool, Parameter(name="--json", help="Print JSON.", negative=())]


def load_context(process: str) -> Settings:
    """Read the settings, and log as they say.

    Raises:
        BadSettings
    """
    settings = read_settings()
    configure(settings.log_format, settings.log_level, process)
    return settings


@asynccontextmanager
async def open_database(
    settings: Settings, command: str, size: int = 2, *, no_timeouts: bool = False
) -> AsyncIterator[Database]:
    """A pool of the command's own, closed at its end; Postgres shows it as `stockhook/<command>`."""
    url = settings.database_url.get_secret_value()
    database = Database(url, size, f"stockhook/{command}", no_timeouts=no_timeouts)
    database.warn_of_ignored()
    try:
        yield database
    finally:
        await database.close()


def print_json(value: object) -> None:
    """On one line; what JSON has no type for as text."""
    say_json(value)


def fail(code: int, words: str) -> NoReturn:
    """One sentence on standard error, and the exit code."""
    say(f"stockhook: {words}", file=sys.stderr)
    sys.exit(code)


@contextmanager
def exit_on(*failures: type[Exception], code: int = FAILED) -> Iterator[None]:
    """End the command where one of these is raised: their text says why."""
    try:
        yield
    except failures as error:
        fail(code, str(error))
