"""`stockhook` processes that start in milliseconds: forks of one that has imported everything.

They have their own id, environment and session, and can be killed and awaited. They save the start of the
interpreter and the imports, which take more than a second.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from time import monotonic
from typing import IO


@cache
def fork_server() -> "ForkServer":
    """The fork server of this process; it ends with the process."""
    return ForkServer()


class Forked:
    """A process. As in `subprocess.Popen`, `returncode` is negative if a signal ended it."""

    def __init__(self, server: "ForkServer", pid: int) -> None:
        self._server = server
        self._handle = os.pidfd_open(pid)
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.code_of(self.pid, 0)
            if self.returncode is not None:
                os.close(self._handle)
        return self.returncode

    def wait(self, timeout: float = 60) -> int:
        """Raises: subprocess.TimeoutExpired."""
        if self.returncode is None:
            self.returncode = self._server.code_of(self.pid, timeout)
            if self.returncode is None:
                raise subprocess.TimeoutExpired("stockhook", timeout)
            os.close(self._handle)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Has no effect on a process that has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, number)


class ForkServer:
    """The client of a `python -m tests.support.fork_server` process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._requests = ours
        self._starting = threading.Lock()
        self._changed = threading.Condition()
        self._started: list[int] = []
        self._codes: dict[int, int] = {}
        self._has_ended = False
        threading.Thread(target=self._listen, name="fork server", daemon=True).start()

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], output: IO[bytes], errors: IO[bytes]
    ) -> Forked:
        request = {"arguments": list(arguments), "environment": dict(environment), "folder": str(Path.cwd())}
        with self._starting:
            socket.send_fds(
                self._requests, [json.dumps(request).encode()], [output.fileno(), errors.fileno()]
            )
            with self._changed:
                assert self._changed.wait_for(lambda: self._started or self._has_ended, 60)
                assert self._started, "the fork server has ended"
                return Forked(self, self._started.pop())

    def code_of(self, pid: int, within: float) -> int | None:
        """The exit code of a process that ended; None if it did not within these seconds."""
        end = monotonic() + within
        with self._changed:
            while pid not in self._codes and (left := end - monotonic()) > 0:
                self._changed.wait(left)
            return self._codes.get(pid)

    def _listen(self) -> None:
        while packet := self._requests.recv(1000):
            answer = json.loads(packet)
            with self._changed:
                if "started" in answer:
                    # Another process had the same id before.
                    self._codes.pop(answer["started"], None)
                    self._started.append(answer["started"])
                else:
                    self._codes[answer["ended"]] = answer["code"]
                self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
