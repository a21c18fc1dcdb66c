"""`python -m tests.bench.servers [SERVER…]`: one JSON object per server, for docs/design/http-server.md.

Needs the environment of `make bench`, and neither broker nor database.
"""

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from time import monotonic

import httpx

from tests.bench.load import Prepared, play_at_once
from tests.bench.processes import cpu_seconds, resident_bytes, with_descendants
from tests.bench.servers.serve import SECRET, SERVERS
from tests.bench.world import free_port
from tests.support.http_shapes import EVENT, KINDS, head, send

READY_SECONDS = 60.0
# Longer than each deadline of the servers.
STILL_OPEN_SECONDS = 20.0
ROUNDS = 3
REQUESTS = 10_000

WHOLE = head(SECRET, f"Content-Length: {len(EVENT)}") + EVENT


@dataclass
class Running:
    process: "subprocess.Popen[bytes]"
    port: int

    async def stored(self) -> int:
        async with httpx.AsyncClient(timeout=20) as client:
            answer = await client.get(f"http://127.0.0.1:{self.port}/readyz")
            return int(answer.json()["stored"])


@asynccontextmanager
async def running(server: str) -> AsyncIterator[Running]:
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.servers.serve", server, str(port)]
    server_process = Running(
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), port
    )
    try:
        async with asyncio.timeout(READY_SECONDS):
            while True:
                with suppress(httpx.TransportError):
                    await server_process.stored()
                    break
                await asyncio.sleep(0.1)
        yield server_process
    finally:
        for pid in with_descendants([server_process.process.pid]):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        server_process.process.wait()


async def answers(server_process: Running) -> dict[str, object]:
    """For each kind: the number of shapes, of stored events, and the wrong answers."""
    result: dict[str, object] = {}
    for kind, shapes in KINDS.items():
        before, expected, wrong = await server_process.stored(), 0, []
        for shape in (all_of_kind := list(shapes(SECRET))):
            try:
                status = await send(server_process.port, shape)
            except TimeoutError:
                status = -1
            expected += shape.is_event
            if status not in shape.statuses:
                wrong.append(f"{shape.name}: {status}")
        await asyncio.sleep(1)
        stored = await server_process.stored() - before
        result[kind] = {"shapes": len(all_of_kind), "stored": stored, "expected": expected, "wrong": wrong}
    return result


async def open_for(port: int, first: bytes, *, is_answered: bool) -> float | None:
    """Seconds until the server closes a connection that sends no more; None if it stays open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(first)
        if is_answered:
            await reader.readuntil(b"\r\n\r\n")
        began = monotonic()
        async with asyncio.timeout(STILL_OPEN_SECONDS):
            with suppress(ConnectionError):
                while await reader.read(65_536):
                    pass
        return round(monotonic() - began, 1)
    except TimeoutError:
        return None
    finally:
        writer.close()


async def ending(server_process: Running) -> dict[str, object]:
    """Send SIGTERM while a body is being received."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server_process.port)
    writer.write(WHOLE[:-5])
    await writer.drain()
    await asyncio.sleep(0.5)
    server_process.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(1)
    status = 0
    with suppress(OSError, asyncio.IncompleteReadError):
        writer.write(WHOLE[-5:])
        status = int((await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20))[9:12])
    writer.close()
    return {"answer": status, "exit": await asyncio.to_thread(server_process.process.wait, 30)}


async def throughput(port: int, count: int) -> float:
    requests = [Prepared(str(number), WHOLE) for number in range(count)]
    began = monotonic()
    await play_at_once(port, requests)
    return count / (monotonic() - began)


def version_of(server: str) -> str | None:
    try:
        return version("httptools" if server == "stockhook" else server)
    except PackageNotFoundError:
        return None


async def measure(servers: list[str]) -> None:
    results: dict[str, dict[str, object]] = {}
    for server in servers:
        async with running(server) as server_process:
            results[server] = {"version": version_of(server), "answers": await answers(server_process)}
            seconds = await asyncio.gather(
                open_for(server_process.port, WHOLE[:40], is_answered=False),
                open_for(server_process.port, b"", is_answered=False),
                open_for(server_process.port, WHOLE, is_answered=True),
            )
            results[server] |= dict(zip(("half a head", "silent", "idle"), seconds, strict=True))
        async with running(server) as server_process:
            pids = with_descendants([server_process.process.pid])
            results[server] |= {"MiB at rest": round(resident_bytes(pids) / 2**20), "processes": len(pids)}
            results[server]["SIGTERM"] = await ending(server_process)
    rates: dict[str, list[float]] = {server: [] for server in servers}
    costs: dict[str, list[float]] = {server: [] for server in servers}
    for _ in range(ROUNDS):
        for server in servers:
            async with running(server) as server_process:
                await throughput(server_process.port, REQUESTS // 10)
                pids = with_descendants([server_process.process.pid])
                before = cpu_seconds(pids)
                rates[server].append(await throughput(server_process.port, REQUESTS))
                costs[server].append((cpu_seconds(pids) - before) / REQUESTS * 1_000_000)
    for server in servers:
        results[server]["requests/s"] = round(statistics.median(rates[server]))
        results[server]["CPU microseconds per request"] = [round(cost) for cost in costs[server]]
        results[server]["requests/s of each round"] = [round(rate) for rate in rates[server]]
        print(json.dumps({"server": server, **results[server]}, indent=2))


if __name__ == "__main__":
    asyncio.run(measure(sys.argv[1:] or list(SERVERS)))
