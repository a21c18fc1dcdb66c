"""Notifications to a service manager: ready, alive, status, stopping (sd_notify(3))."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import structlog

from worker.observability.ops_server import Checks, reasons

log = structlog.get_logger(__name__)

SOCKET = "NOTIFY_SOCKET"
WATCHDOG = "WATCHDOG_USEC"
STOPPING = ("STOPPING=1", "STATUS=stopping: finishing in-flight deliveries")
# systemd shows the status on request; the watchdog may require more frequent notifications.
LONGEST_PAUSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Manager:
    """The socket of a service manager, and the interval of notifications."""

    address: str
    pause: float

    @classmethod
    def named_by(cls, environment: Mapping[str, str]) -> "Manager | None":
        """None if no service manager requested notifications."""
        address = environment.get(SOCKET, "")
        if not address.startswith(("/", "@")):
            return None
        patience = int(environment.get(WATCHDOG) or 0) / 1_000_000
        return cls(address, min(patience / 3, LONGEST_PAUSE_SECONDS) if patience else LONGEST_PAUSE_SECONDS)

    def notify(self, *lines: str) -> None:
        """Send without waiting. A manager that does not read is no reason to stop."""
        # A leading @ stands for the zero byte of Linux's abstract namespace.
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notices:
            notices.setblocking(False)
            try:
                notices.sendto("\n".join(lines).encode(), address)
            except OSError as error:
                log.warning("systemd.unreachable", reason=error.strerror)


@asynccontextmanager
async def notify_systemd(checks: Checks, stopping: asyncio.Event) -> AsyncIterator[None]:
    """Send READY=1, then WATCHDOG=1 and STATUS= while the event loop runs, and STOPPING=1 after `stopping`.

    A process is ready once it answers on its ports. If it waits for broker or database, its status says so.
    """
    manager = Manager.named_by(os.environ)
    if manager is None:
        yield
        return
    manager.notify("READY=1")
    stop_reported = asyncio.Event()
    reporting = asyncio.create_task(
        _report_regularly(manager, checks, stopping, stop_reported), name="manager"
    )
    try:
        yield
    finally:
        reporting.cancel()
        if stopping.is_set() and not stop_reported.is_set():
            # A process with nothing to finish may end before this task runs, as it did with Python 3.13.
            manager.notify(*STOPPING)


async def _report_regularly(
    manager: Manager, checks: Checks, stopping: asyncio.Event, stop_reported: asyncio.Event
) -> None:
    while not stopping.is_set():
        manager.notify("WATCHDOG=1")
        manager.notify(f"STATUS={await _status(checks)}")
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), manager.pause)
    manager.notify(*STOPPING)
    stop_reported.set()
    while True:
        manager.notify("WATCHDOG=1")
        await asyncio.sleep(manager.pause)


async def _status(checks: Checks) -> str:
    problems = {name: reason for name, reason in (await reasons(checks)).items() if reason is not None}
    status = "; ".join(f"{name}: {reason}" for name, reason in problems.items()) or "ready"
    return " ".join(status.split())  # a line break would end the notice's line
