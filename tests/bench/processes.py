"""Start, measure (through /proc) and stop processes."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.local.process import PROC, Command, Spawner, descendants
from deploy.local.services import CHECKOUT

STOP_SECONDS = 30
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Failed(Exception):
    """A process ended by itself, or events are missing. The text has the end of its log."""


@dataclass(frozen=True, slots=True)
class Running:
    """A process and its descendants."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def check(self) -> None:
        """Raises: Failed: It has ended."""
        if (code := self.process.poll()) is not None:
            raise Failed(f"{self.name} ended with {code}:\n{self.tail()}")

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    @property
    def pids(self) -> list[int]:
        return with_descendants([self.process.pid])

    async def stop(self) -> None:
        """Send SIGTERM, then SIGKILL to processes that do not end."""
        self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self.process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def start(
    spawner: Spawner, name: str, argv: Sequence[str], environment: Mapping[str, str], log: Path
) -> Running:
    """Start a process with the checkout as its folder."""
    command = Command(tuple(argv), environment, folder=CHECKOUT)
    return Running(name, spawner.spawn(command, log), log)


def with_descendants(pids: Sequence[int]) -> list[int]:
    return [*pids, *(child.pid for pid in pids for child in descendants(pid))]


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU seconds of these processes and their ended children."""
    return sum(map(_cpu_ticks, pids)) / TICKS


def _cpu_ticks(pid: int) -> int:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return 0
    # utime, stime, cutime, cstime; the name before them may contain spaces and parentheses.
    return sum(map(int, text.rpartition(")")[2].split()[11:15]))


def machine_cpu_seconds() -> float:
    """CPU seconds of all processes of the machine."""
    line = (PROC / "stat").read_text().partition("\n")[0]
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, *_ = map(int, line.split()[1:])
    return (user + nice + system + interrupts + soft_interrupts) / TICKS


def resident_bytes(pids: Sequence[int]) -> int:
    """The resident set; shared pages count once per process."""
    return sum(map(_resident, pids))


def _resident(pid: int) -> int:
    try:
        return int((PROC / str(pid) / "statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0
