"""`stockhook console`."""

import sys
from getpass import getpass

from cyclopts import App

from worker.cli.context import WrongUsage
from worker.cli.startup import load_context, traced
from worker.cli.terminal import say
from worker.config.console_accounts import PasswordHash
from worker.config.security import secret_weakness
from worker.observability.errors import StockhookError
from worker.observability.exit_codes import MISCONFIGURED
from worker.observability.resolver import run_loop

console = App(
    name="console", help="Show the pipeline and its failures in a browser, until SIGTERM or Ctrl-C."
)

LONGEST_PASSWORD = 1024


class ExtraMissing(StockhookError):
    """The packages of the console are not installed."""

    exit_code = MISCONFIGURED


@console.default
def serve() -> None:
    """Show the pipeline and its failures in a browser, until SIGTERM or Ctrl-C."""
    try:
        from worker.console.server import serve as serve_console
    except ModuleNotFoundError as error:
        raise ExtraMissing(
            f"the console needs more packages ({error.name} is missing): install stockhook[console]"
        ) from None
    settings = load_context("console")
    with traced(settings, "console"):
        run_loop(serve_console(settings))


@console.command(name="hash-password")
def hash_password() -> None:
    """Print the hash of a password for STOCKHOOK_CONSOLE_USERS.

    The password is read from the terminal, which does not show it, or from the first line of standard input.
    """
    password = _read_password()
    fault = secret_weakness(password)
    if fault is not None:
        raise WrongUsage(f"the password {fault}")
    say(PasswordHash.of(password))


def _read_password() -> str:
    """Raises: WrongUsage."""
    if not sys.stdin.isatty():
        return sys.stdin.readline(LONGEST_PASSWORD + 2).rstrip("\r\n")
    try:
        password = getpass("Password: ")
        if getpass("Again: ") != password:
            raise WrongUsage("the two passwords differ")
    except EOFError:
        raise WrongUsage("the input ended before a password was given") from None
    return password
