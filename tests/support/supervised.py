"""The product's processes under a supervisor, such as systemd."""

import asyncio
import os
import signal
import subprocess
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from deploy.local.process import Command, Spawner

# A short RestartSec of systemd.
RESTART_SECONDS = 0.5
STOP_SECONDS = 25
LOOK_SECONDS = 0.05


@dataclass(slots=True)
class Supervised:
    """A process with its descendants. It is started again whenever it ends."""

    name: str
    command: Command
    log: Path
    spawner: Spawner
    ops_port: int
    ends: Counter[int] = field(default_factory=Counter)
    """The number of ends per exit code."""
    restarts: int = 0
    """The number of ends with 0 after SIGTERM."""
    _is_restarting: bool = False
    _child: "subprocess.Popen[bytes] | None" = None
    _task: "asyncio.Task[None] | None" = None

    def start(self) -> None:
        self._child = self.spawner.spawn(self.command, self.log)
        self._task = asyncio.create_task(self._supervise(), name=self.name)

    def kill(self) -> None:
        self._signal_all(signal.SIGKILL)

    def pause(self) -> None:
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    async def restart(self) -> None:
        """Send SIGTERM; return when it is ready again."""
        before = self.restarts
        self._is_restarting = True
        self._signal(signal.SIGTERM)
        async with httpx.AsyncClient(timeout=1) as client:
            while self.restarts == before or not await self.is_ready(client):
                await asyncio.sleep(LOOK_SECONDS)

    async def is_ready(self, client: httpx.AsyncClient) -> bool:
        try:
            answer = await client.get(f"http://127.0.0.1:{self.ops_port}/readyz")
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    async def stop(self) -> int:
        """Send SIGTERM; return its exit code, or -9 if it had to be killed."""
        assert self._child is not None
        assert self._task is not None
        self._task.cancel()
        self.resume()
        self._signal(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(self._child.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        # Also end the rest of its process group.
        self._signal_all(signal.SIGKILL)
        await asyncio.to_thread(self._child.wait)
        return code

    async def _supervise(self) -> None:
        while True:
            assert self._child is not None
            code = self._child.poll()
            if code is not None:
                if self._is_restarting and code == 0:
                    self.restarts += 1
                else:
                    self.ends[code] += 1
                self._is_restarting = False
                self._signal_all(signal.SIGKILL)
                await asyncio.sleep(RESTART_SECONDS)
                self._child = self.spawner.spawn(self.command, self.log)
            await asyncio.sleep(LOOK_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        assert self._child is not None
        with suppress(ProcessLookupError):
            self._child.send_signal(number)

    def _signal_all(self, number: signal.Signals) -> None:
        """Send the signal to its process group, which it leads."""
        assert self._child is not None
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, number)
