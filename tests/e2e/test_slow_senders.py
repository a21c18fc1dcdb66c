"""Two hundred slow, incomplete and silent connections do not delay ordinary webhooks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import cycle, islice
from statistics import median
from time import perf_counter

import httpx

from tests.support.events import order_created
from tests.support.stack import OVOKO_SECRET, Stack

SLOW = 200
ORDINARY = 200

HEAD = (
    "POST /webhooks/ovoko HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n"
    f"X-Webhook-Secret: {OVOKO_SECRET}\r\n\r\n"
).encode()

# The bytes that a connection sends immediately, and those that it sends one by one each half second.
MANNERS = {
    "half a header": (HEAD[:40], HEAD[40:]),
    "a slow body": (HEAD + b"{", b" " * 4000),
    "nothing": (b"", b""),
    "a header and no body": (HEAD, b""),
}


async def dawdle(port: int, at_once: bytes, trickle: bytes, opened: asyncio.Event) -> None:
    """Reconnect whenever the server closes the connection."""
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            opened.set()
            try:
                writer.write(at_once)
                for byte in trickle or bytes(1000):
                    await asyncio.sleep(0.5)
                    if trickle:
                        writer.write(bytes([byte]))
                        await writer.drain()
            finally:
                writer.close()
        await asyncio.sleep(0.1)


@asynccontextmanager
async def dawdlers(port: int) -> AsyncIterator[list["asyncio.Task[None]"]]:
    opened = [asyncio.Event() for _ in range(SLOW)]
    tasks = [
        asyncio.create_task(dawdle(port, at_once, trickle, event))
        for (at_once, trickle), event in zip(islice(cycle(MANNERS.values()), SLOW), opened, strict=True)
    ]
    try:
        async with asyncio.timeout(20):
            await asyncio.gather(*(event.wait() for event in opened))
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def ordinary(stack: Stack, name: str, statuses: list[int]) -> list[float]:
    """The duration of consecutive webhooks on one connection, in milliseconds."""
    taken: list[float] = []
    async with httpx.AsyncClient(timeout=20, headers={"X-Webhook-Secret": OVOKO_SECRET}) as client:
        for number in range(ORDINARY):
            began = perf_counter()
            order = order_created(f"{name}-{number}")
            answer = await client.post(f"{stack.url}/webhooks/ovoko", json=order)
            taken.append((perf_counter() - began) * 1000)
            statuses.append(answer.status_code)
            await asyncio.sleep(0.02)
    return sorted(taken)


def figures(taken: list[float]) -> str:
    return (
        f"median {median(taken):.1f} ms, 99th {taken[int(len(taken) * 0.99)]:.1f} ms, most {taken[-1]:.1f} ms"
    )


async def test_slow_and_silent_connections_delay_no_other_sender(stack: Stack) -> None:
    await stack.started("ingest")
    statuses: list[int] = []
    await ordinary(stack, "warm", [])
    without = await ordinary(stack, "without", statuses)
    async with dawdlers(int(stack.environment["STOCKHOOK_INGEST_PORT"])) as tasks:
        beside = await ordinary(stack, "beside", statuses)
        assert not any(task.done() for task in tasks), "all of them were at it the whole time"
    print(f"\nwithout: {figures(without)}\nbeside {SLOW} slow connections: {figures(beside)}")

    assert statuses == [200] * (2 * ORDINARY)
    assert await stack.depths() == {"stockhook.orders": 3 * ORDINARY}
