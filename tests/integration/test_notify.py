"""Messages to a service manager on real sockets, from the module and from real processes."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.stack import Stack, Worker, until
from worker.observability.ops_server import Checks
from worker.observability.systemd import Manager, notify_systemd


class Listener:
    """The socket of a service manager."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name[1:]}" if name.startswith("@") else name)
        self._socket.setblocking(False)
        self.heard: list[str] = []

    def listen(self) -> list[str]:
        """All lines received so far."""
        while True:
            try:
                self.heard += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self.heard

    async def hears(self, line: str, seconds: float = 20) -> None:
        async def heard() -> bool:
            return line in self.listen()

        await until(heard, f"{line} among {self.heard}", seconds)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["a path", "an abstract name"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    name = str(tmp_path / "notify") if request.param == "a path" else f"@stockhook-test-{uuid4().hex}"
    listener = Listener(name)
    yield listener
    listener.close()


def checks(reason: str | None) -> Checks:
    async def check() -> str | None:
        return reason

    return {"orders": check}


async def test_a_manager_receives_ready_then_watchdog_and_status_then_stopping(
    manager: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    monkeypatch.setenv("WATCHDOG_USEC", "150000")
    stopping = asyncio.Event()
    async with notify_systemd(checks("no connection\nyet"), stopping):
        await manager.hears("STATUS=orders: no connection yet")
        manager.heard.clear()
        await manager.hears("WATCHDOG=1")
        stopping.set()
        await manager.hears("STOPPING=1")
        manager.heard.clear()
        await manager.hears("WATCHDOG=1")


async def test_ready_comes_first(manager: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    async with notify_systemd(checks(None), asyncio.Event()):
        await manager.hears("STATUS=ready")

    assert manager.heard == ["READY=1", "WATCHDOG=1", "STATUS=ready"]


def test_the_watchdog_interval_is_a_third_of_its_timeout_and_at_most_five_seconds() -> None:
    def pause(**environment: str) -> float | None:
        manager = Manager.named_by({"NOTIFY_SOCKET": "/run/notify", **environment})
        return None if manager is None else manager.pause

    assert pause(WATCHDOG_USEC="6000000") == 2
    assert pause(WATCHDOG_USEC="90000000") == 5
    assert pause() == 5


def test_without_a_manager_nothing_is_sent() -> None:
    assert Manager.named_by({}) is None
    # The family vsock: is for virtual machines.
    assert Manager.named_by({"NOTIFY_SOCKET": "vsock:2:1234"}) is None


async def test_a_manager_that_does_not_listen_stops_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "absent"))
    async with notify_systemd(checks(None), asyncio.Event()):
        await asyncio.sleep(0)


async def has_ended(worker: Worker, listener: Listener) -> bool:
    listener.listen()
    return worker.process.poll() is not None


@pytest.mark.parametrize("command", ["ingest", "consume"])
async def test_each_process_notifies_its_manager_from_start_to_stop(
    stack: Stack, tmp_path: Path, command: str
) -> None:
    listener = Listener(str(tmp_path / "notify"))
    worker = await stack.started(command, NOTIFY_SOCKET=listener.name, WATCHDOG_USEC="600000")
    await listener.hears("READY=1")
    await listener.hears("STATUS=ready")
    listener.heard.clear()
    await listener.hears("WATCHDOG=1")
    worker.signal(signal.SIGTERM)
    # It reads meanwhile, because a socket buffers few messages.
    await listener.hears("STOPPING=1")
    await until(partial(has_ended, worker, listener), "it ends")
    code = worker.wait()
    listener.close()

    assert code == 0
    assert "systemd.unreachable" not in worker.lines()


async def test_run_keeps_its_two_processes_from_telling_the_same_manager(
    stack: Stack, tmp_path: Path
) -> None:
    listener = Listener(str(tmp_path / "notify"))
    worker = await stack.started("run", NOTIFY_SOCKET=listener.name, WATCHDOG_USEC="600000")
    code = worker.stop()
    heard = listener.listen()
    listener.close()

    assert (code, heard) == (0, [])
