"""`stockhook run`: the ingest and all consumers in two processes, started and stopped together."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

import structlog

from worker.config.settings import PREFIX, Settings
from worker.observability.signals import stop_on_signals, stop_with_parent
from worker.observability.systemd import SOCKET, WATCHDOG

log = structlog.get_logger(__name__)

# The process id of `stockhook run`, so that its children stop with it.
PARENT = f"{PREFIX}PARENT_PID"


async def run_all(settings: Settings) -> int:
    """Run until a signal, or until one of the two ends; the exit code of the one that failed."""
    stopping = stop_on_signals()
    consumers = await _spawn(["consume"], {})
    ingest = await _spawn(["ingest"], {f"{PREFIX}OPS_PORT": str(settings.ops_port + 1)})
    processes = (ingest, consumers)
    if settings.ingest_certificate_file is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, ingest)

    ends = [asyncio.create_task(process.wait()) for process in processes]
    sign = asyncio.create_task(stopping.wait())
    await asyncio.wait([*ends, sign], return_when=asyncio.FIRST_COMPLETED)
    sign.cancel()
    # A process that ended by itself gives the reason. One that we stop may not handle signals yet.
    by_itself = [process.returncode or 0 for process in processes]
    # The ingest stops first, so that consumers can apply the events that it still receives.
    for process in processes:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await _wait(process, settings.shutdown_grace + 10)
    codes = [process.returncode or 0 for process in processes]
    log.info("run.stopped", ingest=codes[0], consumers=codes[1])
    return next((_exit_code(code) for code in (*by_itself, *codes) if code), 0 if stopping.is_set() else 1)


def _reload(ingest: asyncio.subprocess.Process) -> None:
    """Have the ingest load its certificate again."""
    with suppress(ProcessLookupError):
        ingest.send_signal(signal.SIGHUP)


def obey_parent() -> None:
    """Stop when the `stockhook run` that started us does, also when that is killed."""
    parent = os.environ.get(PARENT)
    if parent:
        stop_with_parent(int(parent))


def _exit_code(returncode: int) -> int:
    """As a shell says it: 128 and the signal's number where a signal ended the process."""
    return returncode if returncode >= 0 else 128 - returncode


async def _spawn(arguments: Sequence[str], extra: Mapping[str, str]) -> asyncio.subprocess.Process:
    # Sessions of their own: Ctrl-C reaches us alone, and we stop them in order.
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "worker",
        *arguments,
        env={**_without_manager(), PARENT: str(os.getpid()), **extra},
        start_new_session=True,
    )


def _without_manager() -> dict[str, str]:
    """The environment without the service manager's variables: only one process may notify it."""
    return {name: value for name, value in os.environ.items() if name not in (SOCKET, WATCHDOG)}


async def _wait(process: asyncio.subprocess.Process, seconds: float) -> None:
    try:
        await asyncio.wait_for(process.wait(), seconds)
    except TimeoutError:
        log.error("process.killed", pid=process.pid)
        process.kill()
        await process.wait()
