"""Connections of strangers, of trusted proxies and of senders with a secret, on real sockets.

Loopback has 16 million addresses, so each sender has its own.
"""

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from ipaddress import ip_network

import structlog.testing
from cryptography.fernet import Fernet

from tests.support.http_shapes import EVENT, head
from tests.support.ingest_server import WHOLE, Client, Server, client, server
from tests.support.stack import until
from worker.ingest.connection_limits import ConnectionLimits
from worker.ingest.exchange import Request, Response
from worker.ingest.http_connection import Limits
from worker.ingest.http_server import serving
from worker.ingest.trusted_proxies import TrustedProxies
from worker.observability import metrics
from worker.observability.file_limit import files_for_connections

PROXY, SENDER, STRANGER, OTHER = "127.0.0.9", "127.1.0.1", "127.2.0.1", "127.2.0.2"
PROXIES = TrustedProxies([ip_network(PROXY)])
LIMITS = Limits(idle_seconds=60, connections=ConnectionLimits(total=16, per_address=3))


@asynccontextmanager
async def ingest(limits: Limits = LIMITS) -> AsyncIterator[Server]:
    key = Fernet.generate_key().decode()
    async with server(limits, PROXIES, buyback_tokens="token", sealing_keys=key) as running:
        yield running


async def clients(opened: AsyncExitStack, port: int, address: str, number: int) -> list[Client]:
    return [await opened.enter_async_context(client(port, address=address)) for _ in range(number)]


def refused(reason: str) -> float:
    name = "stockhook_http_connections_refused_total"
    return metrics.INGEST.get_sample_value(name, {"reason": reason}) or 0


def connections() -> dict[str, float]:
    name = "stockhook_http_connections"
    kinds = ("trusted", "authenticated", "stranger")
    return {kind: metrics.INGEST.get_sample_value(name, {"kind": kind}) or 0 for kind in kinds}


async def test_of_one_address_the_oldest_stranger_ends_and_others_are_served() -> None:
    before = refused("address")
    async with ingest() as running, AsyncExitStack() as opened:
        other = await opened.enter_async_context(client(running.port, address=OTHER))
        strangers = await clients(opened, running.port, STRANGER, 5)

        assert [await stranger.is_closed() for stranger in strangers[:2]] == [True, True]
        assert [await sender.is_served() for sender in (*strangers[2:], other)] == [True] * 4
    assert refused("address") - before == 2


async def test_a_body_that_trickles_ends_for_the_sake_of_the_next_connection() -> None:
    async with ingest() as running, AsyncExitStack() as opened:
        trickling = await clients(opened, running.port, STRANGER, 3)
        for stranger in trickling:
            stranger.writer.write(
                b"POST /webhooks/buyback HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"
            )
            await stranger.writer.drain()
        sender = await opened.enter_async_context(client(running.port, address=STRANGER))

        assert await sender.is_served()
        assert await trickling[0].is_closed()


async def test_a_complete_request_is_answered_with_any_number_of_connections() -> None:
    """Even before its secret is checked, for example while a thread reads a large body."""
    is_read, may_answer = asyncio.Event(), asyncio.Event()

    async def handle(request: Request) -> Response:
        async for _ in request.body:
            pass
        is_read.set()
        await may_answer.wait()
        return Response(200, b"")

    async with serving(handle, "127.0.0.1", 0, LIMITS, 5, PROXIES) as port, AsyncExitStack() as opened:
        (sender,) = await clients(opened, port, STRANGER, 1)
        sender.writer.write(WHOLE)
        await asyncio.wait_for(is_read.wait(), 20)
        flood = await clients(opened, port, STRANGER, 20)
        assert await flood[0].is_closed()
        may_answer.set()

        assert await sender.status() == 200


async def test_connections_with_a_secret_are_not_strangers_any_more() -> None:
    async with ingest() as running, AsyncExitStack() as opened:
        known = []
        for _ in range(6):
            (sender,) = await clients(opened, running.port, SENDER, 1)
            assert await sender.is_served()
            known.append(sender)
        counted = connections()
        await clients(opened, running.port, SENDER, 10)

        assert counted["authenticated"] >= 6
        assert [await sender.is_served() for sender in known] == [True] * 6


async def test_a_wrong_secret_and_a_probe_leave_a_stranger_one() -> None:
    async with ingest(Limits(60, stranger_idle_seconds=0.3)) as running:
        for request in (
            head("wrong", f"Content-Length: {len(EVENT)}") + EVENT,
            b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        ):
            async with client(running.port, address=STRANGER) as stranger:
                stranger.writer.write(request)
                await stranger.answer()
                assert await stranger.is_closed()


async def test_a_trusted_proxy_may_have_many_connections_and_keep_them_idle() -> None:
    limits = Limits(60, header_seconds=0.3, stranger_idle_seconds=0.3, connections=LIMITS.connections)
    async with ingest(limits) as running, AsyncExitStack() as opened:
        strangers = await clients(opened, running.port, STRANGER, 3)
        proxies = await clients(opened, running.port, PROXY, 12)
        assert [await stranger.is_closed() for stranger in strangers] == [True] * 3
        # The deadline of strangers has also passed for the proxy's connections.
        for proxy in proxies:
            proxy.writer.write(head("wrong", f"Content-Length: {len(EVENT)}") + EVENT)
            assert await proxy.status() == 401
        assert await (await clients(opened, running.port, STRANGER, 1))[0].is_closed()

        assert [await proxy.is_served() for proxy in proxies] == [True] * 12


async def test_strangers_of_many_addresses_leave_room_for_proxies() -> None:
    async with ingest() as running, AsyncExitStack() as opened:
        for number in range(40):
            await clients(opened, running.port, f"127.3.0.{number + 1}", 1)
        proxies = await clients(opened, running.port, PROXY, 8)

        assert [await proxy.is_served() for proxy in proxies] == [True] * 8


async def test_a_first_head_must_be_complete_in_time_even_if_it_begins_late() -> None:
    """A head that starts at the same time on an authenticated connection has more time."""
    limits = Limits(60, header_seconds=1.0, connections=LIMITS.connections)
    async with (
        ingest(limits) as running,
        client(running.port, address=SENDER) as known,
        client(running.port, address=STRANGER) as stranger,
    ):
        assert await known.is_served()
        await asyncio.sleep(0.6)
        for late in (known, stranger):
            late.writer.write(WHOLE[:20])
        answers = {asyncio.create_task(late.status()): late for late in (known, stranger)}
        (first,), _ = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)

        assert answers[first] is stranger
        assert [await answer for answer in answers] == [408, 408]


async def test_a_trusted_proxy_names_the_client_of_a_request() -> None:
    seen: list[tuple[str, str | None]] = []

    async def handle(request: Request) -> Response:
        seen.append((request.client, request.headers.get("x-request-id")))
        return Response(200, b"")

    request = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 192.0.2.7\r\n"
    request += b"X-Request-Id: r\r\n\r\n"
    async with serving(handle, "127.0.0.1", 0, LIMITS, 5, PROXIES) as port:
        for address in (PROXY, STRANGER):
            async with client(port, address=address) as sender:
                sender.writer.write(request)
                await sender.answer()

    assert seen == [("192.0.2.7", "r"), (STRANGER, None)]


@contextmanager
def open_files(soft: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_without_a_file_for_another_connection_the_next_ones_wait_until_there_is_one() -> None:
    limits = Limits(60, header_seconds=60, connections=ConnectionLimits(total=1000, per_address=1000))
    async with ingest(limits) as running:
        crowd = [socket.socket() for _ in range(30)]
        sender = socket.socket()
        for unconnected in (*crowd, sender):
            unconnected.setblocking(False)
        with structlog.testing.capture_logs() as lines, open_files(len(os.listdir("/proc/self/fd")) + 5):
            for stranger in crowd:
                stranger.connect_ex(("127.0.0.1", running.port))
            await until(lambda: _is_logged(lines, "accept.failed"), "no more connections are accepted")
            sender.connect_ex(("127.0.0.1", running.port))
            for stranger in crowd:
                stranger.close()
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sender, WHOLE)
            answer = await asyncio.wait_for(loop.sock_recv(sender, 1000), 20)
        sender.close()

    assert answer.startswith(b"HTTP/1.1 200 ")


async def _is_logged(lines: Sequence[Mapping[str, object]], event: str) -> bool:
    return any(line["event"] == event for line in lines)


def test_the_limit_of_open_files_is_raised_as_far_as_connections_need_it() -> None:
    with open_files(256):
        assert files_for_connections(1000, 100) == 1000
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 1100
