"""The product's processes, kept up as a supervisor such as systemd would."""

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

# systemd's RestartSec, for a service that is to be back soon.
RESTART_SECONDS = 0.5
STOP_SECONDS = 25
LOOK_SECONDS = 0.05


@dataclass(slots=True)
class Supervised:
    """One process, with those that it starts. It is started again whenever it ends."""

    name: str
    command: Command
    log: Path
    spawner: Spawner
    ops_port: int
    ends: Counter[int] = field(default_factory=Counter)
    """How often it ended with each exit code."""
    restarts: int = 0
    """How often it ended with 0 after a request to end."""
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
        """Ask it to end; return when it is ready again."""
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
        """Ask it to end; its exit code, or -9 where it had to be killed."""
        assert self._child is not None
        assert self._task is not None
        self._task.cancel()
        self.resume()
        self._signal(signal.SIGTERM)
        try:
            code = await asyncio.to_thread(self._child.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        # Whatever is left of its group too.
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
        """To its whole process group; it is the first in it."""
        assert self._child is not None
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, number)
