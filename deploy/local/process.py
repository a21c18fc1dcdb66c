"""Starts, freezes and ends processes, and finds those that outlived an earlier run."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PROC = Path("/proc")
LOG_TAIL_LINES = 25


class StartFailed(Exception):
    """A service did not start; the message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process by its id and start time: ids are reused, the pair is unique until the machine restarts."""

    pid: int
    born: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        fields = stat_fields(pid)
        return None if fields is None else cls(pid, fields.born)

    def lives(self) -> bool:
        fields = stat_fields(self.pid)
        return fields is not None and fields.born == self.born and fields.state not in "ZX"

    def signal(self, number: signal.Signals) -> None:
        if self.lives():
            # It may have ended by now.
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


@dataclass(frozen=True, slots=True)
class StatFields:
    state: str
    parent: int
    born: int


def stat_fields(pid: int) -> StatFields | None:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The second field is a name in parentheses that may itself hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return StatFields(state=fields[0], parent=int(fields[1]), born=int(fields[19]))


def descendants(pid: int) -> list[Process]:
    """Children, their children and so on, as they are now."""
    known = {
        int(entry.name): stat_fields(int(entry.name)) for entry in PROC.iterdir() if entry.name.isdigit()
    }
    found: list[Process] = []
    parents = [pid]
    while parents:
        parent = parents.pop()
        for child, fields in known.items():
            if fields is not None and fields.parent == parent:
                found.append(Process(child, fields.born))
                parents.append(child)
    return found


def wait_until_gone(processes: list[Process], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(process.lives() for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def kill_tree(root: Process) -> None:
    """Sends kill -9 to a process and its descendants; returns once they have ended."""
    tree = [root, *descendants(root.pid)] if root.lives() else []
    for process in tree:
        process.signal(signal.SIGKILL)
    wait_until_gone(tree, 10)


@dataclass(frozen=True, slots=True)
class Identity:
    """The user of a service that refuses root."""

    uid: int
    gid: int
    capability: str | None
    """Lets the service reach files below folders that are closed to its user."""


@dataclass(frozen=True, slots=True)
class Command:
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    stop_signal: signal.Signals = signal.SIGTERM
    identity: Identity | None = None
    folder: Path = Path("/")


def as_identity(identity: Identity) -> list[str]:
    capability = identity.capability
    raised = [] if capability is None else [f"--inh-caps=+{capability}", f"--ambient-caps=+{capability}"]
    if raised:
        # Without it access(2), with which Postgres looks for its own programs, ignores the capability.
        raised.append("--securebits=+no_setuid_fixup")
    return ["setpriv", f"--reuid={identity.uid}", f"--regid={identity.gid}", "--clear-groups", *raised]


class Spawner:
    """Starts processes that end with this program, even if it gets kill -9.

    Linux sends the parent death signal when the *thread* that started the child ends. So one thread, which
    lives as long as this object, starts them all, whichever thread calls it.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")

    def spawn(self, command: Command, log: Path | None) -> "subprocess.Popen[bytes]":
        return self._thread.submit(self._spawn, command, log).result()

    def _spawn(self, command: Command, log: Path | None) -> "subprocess.Popen[bytes]":
        privileges = [] if command.identity is None else as_identity(command.identity)
        if shutil.which("setpriv"):
            privileges = [*(privileges or ["setpriv"]), f"--pdeathsig={command.stop_signal.name[3:]}"]
        output = None if log is None else log.open("ab")
        try:
            return subprocess.Popen(
                [*privileges, *command.argv],
                env=dict(command.environment),
                cwd=command.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            if output is not None:
                output.close()

    def close(self) -> None:
        self._thread.shutdown()


class Daemon:
    """One long-running command. A file records its process while it runs."""

    def __init__(
        self, name: str, command: Command, *, record: Path, log: Path | None, spawner: Spawner
    ) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._record = record
        self._spawner = spawner
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        if self.running():
            return
        self._child = self._spawner.spawn(self._command, self.log)
        write_record(self._record, self._child.pid)

    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def exit_code(self) -> int | None:
        return None if self._child is None else self._child.poll()

    def kill(self) -> None:
        """Sends kill -9, also to its children; returns once they have ended."""
        if self._child is not None:
            if (process := Process.of(self._child.pid)) is not None:
                kill_tree(process)
            self._child.wait()
            self._record.unlink(missing_ok=True)

    def stop(self, seconds: float) -> None:
        """Requests its end; kills it if it has not ended after these seconds."""
        if self._child is None:
            return
        if self.running():
            tree = descendants(self._child.pid)
            self.signal_tree(signal.SIGCONT)
            self._child.send_signal(self._command.stop_signal)
            try:
                self._child.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
            wait_until_gone(tree, seconds)
        self._record.unlink(missing_ok=True)

    def signal_tree(self, number: signal.Signals) -> None:
        if self._child is not None and (process := Process.of(self._child.pid)) is not None:
            for member in (process, *descendants(process.pid)):
                member.signal(number)

    def log_tail(self) -> str:
        if self.log is None or not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])

    def wait_until_ready(self, probe: Callable[[], bool], seconds: float) -> None:
        """Raises StartFailed if the process ends, or the seconds are over, before the probe succeeds."""
        deadline = time.monotonic() + seconds
        while not probe():
            if not self.running():
                raise StartFailed(f"{self.name} ended with code {self.exit_code()}\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise StartFailed(f"{self.name} did not answer within {seconds:.0f} s\n{self.log_tail()}")
            time.sleep(0.05)


def boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def write_record(path: Path, pid: int) -> None:
    if (process := Process.of(pid)) is not None:
        path.write_text(json.dumps({"pid": process.pid, "born": process.born, "boot": boot_id()}))


def read_record(path: Path) -> Process | None:
    """The recorded process, unless the machine was restarted since."""
    try:
        record = json.loads(path.read_text())
        return Process(record["pid"], record["born"]) if record["boot"] == boot_id() else None
    except (OSError, ValueError, KeyError):
        return None


def sweep(record: Path, patience: float) -> None:
    """Waits for a process of an earlier run, which was signalled to stop when that run died."""
    process = read_record(record)
    if process is not None and not wait_until_gone([process], patience):
        kill_tree(process)
    record.unlink(missing_ok=True)
