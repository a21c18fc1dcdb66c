"""Name lookups in threads that no code joins."""

import asyncio
import socket
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from worker.config.subscribers import Subscriber
from worker.observability import resolver
from worker.observability.resolver import (
    Loop,
    connect,
    look_up,
    run_loop,
)
from worker.tools.doctor import changes

SECRET = f"whsec_{b64encode(b'0123456789' * 4).decode()}"


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Lookups do not return before the end of the test; yields the started ones."""
    started: list[Any] = []
    is_over = threading.Event()

    def hang(*question: Any) -> Any:
        started.append(question)
        is_over.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(resolver, "_LOOKUPS", resolver._Lookups())
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield started
    is_over.set()


async def test_lookups_of_the_same_name_share_one_thread(hanging: list[Any]) -> None:
    waiting = [asyncio.create_task(look_up("same.example", 80)) for _ in range(20)]
    await asyncio.sleep(0)
    other = asyncio.create_task(look_up("other.example", 80))
    await asyncio.sleep(0)
    for task in (*waiting, other):
        task.cancel()
    ended = await asyncio.gather(*waiting, other, return_exceptions=True)

    assert all(isinstance(one, asyncio.CancelledError) for one in ended)
    assert [question[0] for question in hanging] == ["same.example", "other.example"]


async def test_lookups_without_an_answer_take_a_bounded_number_of_threads(hanging: list[Any]) -> None:
    names = [f"{number}.example" for number in range(resolver.MOST_LOOKUPS)]
    waiting = [asyncio.create_task(look_up(name, 80)) for name in names]
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="no name server answers"):
        await look_up("one-too-many.example", 80)
    for task in waiting:
        task.cancel()

    assert len(hanging) == resolver.MOST_LOOKUPS


async def test_a_thread_that_cannot_be_started_fails_the_lookup_and_keeps_no_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(resolver, "_LOOKUPS", resolver._Lookups())
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", refuse)
        for _ in range(resolver.MOST_LOOKUPS + 1):
            with pytest.raises(socket.gaierror, match="thread") as raised:
                await asyncio.wait_for(look_up("127.0.0.1", 80), 10)
            assert raised.value.errno == socket.EAI_AGAIN

    assert await asyncio.wait_for(look_up("127.0.0.1", 80), 10)


async def test_doctor_reports_that_no_name_server_responds(
    hanging: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LOOKUP_SECONDS", 0.1)
    subscriber = Subscriber.model_validate(
        {"name": "shop", "url": "https://shop.example/hooks", "types": ["part.*"], "secret": SECRET}
    )
    finding = await changes.check_target(subscriber, allow_private=False)

    assert finding.level == "error"
    assert "the lookup of shop (shop.example) took longer than" in finding.what


async def test_a_name_that_leads_nowhere_is_an_os_error() -> None:
    with pytest.raises(OSError, match=r".+"):
        await look_up("does-not-exist.invalid", 80)


async def test_the_next_address_is_tried_where_one_cannot_be_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses = ["192.0.2.1", "192.0.2.2"]
    tried: list[tuple[str, int, object]] = []

    async def leads_to(*_: object, **__: object) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in addresses]

    async def create(_protocol: object, host: str, port: int, **options: object) -> Any:
        tried.append((host, port, options["server_hostname"]))
        if host == addresses[0]:
            raise ConnectionRefusedError
        return "connected"

    monkeypatch.setattr(resolver, "look_up", leads_to)

    assert await connect(create, asyncio.Protocol, "shop.example", 443, ssl=True) == "connected"
    assert tried == [(address, 443, "shop.example") for address in addresses]


def test_a_loop_of_ours_connects_and_listens_by_name() -> None:
    async def speak() -> bytes:
        async def on_connection(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            writer.close()

        server = await asyncio.start_server(on_connection, "localhost", 0, family=socket.AF_INET)
        async with server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("localhost", port)
            assert isinstance(asyncio.get_running_loop(), Loop)
            said = await reader.read()
            writer.close()
            return said

    assert run_loop(speak()) == b"hello"


def test_a_program_ends_although_a_lookup_does_not() -> None:
    program = """
import asyncio, socket, time
from worker.observability.resolver import run_loop
socket.getaddrinfo = lambda *question: time.sleep(3600)
async def main():
    try:
        await asyncio.wait_for(asyncio.open_connection("unanswered.example", 80), 0.1)
    except TimeoutError:
        print("given up")
run_loop(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )

    assert (done.returncode, done.stdout) == (0, b"given up\n"), done.stderr


@pytest.mark.parametrize("number", [2, 9])
async def test_addresses_that_do_not_answer_leave_time_for_the_last(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async def addresses(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        return [(0, 0, 0, "", (f"192.0.2.{last}", 5672)) for last in range(1, number + 1)]

    async def create(_: Any, address: str, port: int) -> tuple[str, int]:
        if address != f"192.0.2.{number}":
            await asyncio.Event().wait()
        return address, port

    monkeypatch.setattr(resolver, "look_up", addresses)

    async with asyncio.timeout(30):
        connected = await connect(create, lambda: None, "cluster.example", 5672, within=1.0)
    assert connected == (f"192.0.2.{number}", 5672)
