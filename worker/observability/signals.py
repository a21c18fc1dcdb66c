"""How a process ends: by a signal, with its parent, or because its loop hangs."""

import asyncio
import ctypes
import faulthandler
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from worker.observability.stderr import drain

_PR_SET_PDEATHSIG = 1

# A loop that does not turn for so long hangs in code that cannot be cut off: the process ends, its
# supervisor starts it again, and the event is tried in isolation.
HANG_SECONDS = 60

# Before the process ends by itself it writes a traceback to standard error, which may take nothing: after
# so many seconds more the kernel ends it.
TRACEBACK_SECONDS = 5


def stop_with_parent(parent: int) -> None:
    """Have the kernel send us SIGTERM when our parent ends; `parent` is its process id.

    Linux only; elsewhere it does nothing.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (AttributeError, OSError):
        return
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # It ended before the kernel knew.
        os.kill(os.getpid(), signal.SIGTERM)


@asynccontextmanager
async def hang_watch() -> AsyncIterator[None]:
    """While this lasts, the process ends (with a traceback, without values) if its loop hangs.

    The kernel's alarm ends it also where the traceback cannot be written.
    """

    async def turn() -> None:
        while True:
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            signal.alarm(HANG_SECONDS + TRACEBACK_SECONDS)
            await asyncio.sleep(HANG_SECONDS / 10)

    turning = asyncio.create_task(turn())
    try:
        yield
    finally:
        turning.cancel()
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets; a second signal ends the process at once."""
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set():
            drain()
            os._exit(128 + number)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return stopping
