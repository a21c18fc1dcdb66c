"""Why an address cannot be listened on, and which setting to change."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from worker.observability.errors import StockhookError
from worker.observability.exit_codes import MISCONFIGURED


class CannotListen(StockhookError):
    """The text names the address, the reason and the setting."""

    exit_code = MISCONFIGURED


@contextmanager
def listening_on(host: str, port: int, *, host_setting: str, port_setting: str) -> Iterator[None]:
    """Around the call that binds the address.

    Raises:
        CannotListen
    """
    try:
        yield
    except (OSError, UnicodeError) as error:
        match getattr(error, "errno", None):
            case errno.EADDRINUSE:
                remedy = f"set {port_setting} to a free port"
            case errno.EACCES:
                remedy = f"set {port_setting} to a port above 1023"
            case _:
                remedy = f"set {host_setting} to an address of this machine"
        raise CannotListen(f"cannot listen on {host!r} port {port} ({_reason(error)}): {remedy}") from error


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "no host can have this name"
    if isinstance(error, socket.gaierror) or error.errno is None:
        return error.strerror or type(error).__name__
    # The event loop's text repeats the address.
    return os.strerror(error.errno)
