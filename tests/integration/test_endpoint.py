"""Malicious endpoints: a failure with a plain reason, or the status that they sent."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from worker.change_feed.endpoint import Endpoint, NotDelivered
from worker.config.signing_keys import SigningKey
from worker.config.subscribers import Subscriber

Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

ANSWER_SECONDS = 0.5
KEY = SigningKey.read("whsec_" + "A" * 32)
MEGABYTE = b"x" * 1_048_576
CANARY = b"customer-canary"


async def of_endless_pieces(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 500 x\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"100000\r\n" + MEGABYTE + b"\r\n")
        await writer.drain()


async def of_drops(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n":
        writer.write(bytes([byte]))
        await asyncio.sleep(1)


async def of_a_body_in_drops(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n")
    while True:
        writer.write(b"x")
        await asyncio.sleep(0.2)


async def of_endless_headers(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x-more: " + b"x" * 60_000 + b"\r\n")
        await writer.drain()


async def of_nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(CANARY + b"\r\n\r\n")


async def of_a_broken_connection(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def of_itself(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 307 x\r\nlocation: /hooks\r\ncontent-length: 0\r\n\r\n")


async def taken(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 204 x\r\n\r\n")


def _target(url: str) -> str:
    """The endpoint of a subscriber in the settings."""
    return Subscriber(name="shop", url=url, secret=SecretStr("whsec_" + "A" * 32)).url


@asynccontextmanager
async def answering(
    how: Answering, host: str = "127.0.0.1", path: str = "/hooks"
) -> AsyncIterator[tuple[Endpoint, list[bytes]]]:
    """A target with these answers, and its requests."""
    requests: list[bytes] = []
    tasks: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                requests.append(await reader.readuntil(b"\r\n\r\n"))
                await reader.readexactly(2)
                await how(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.ensure_future(serve(reader, writer)))

    server = await asyncio.start_server(accept, host, 0)
    port = server.sockets[0].getsockname()[1]
    target = Endpoint.of(
        _target(f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"),
        [KEY],
        connections=1,
        allow_private=True,
        answer_seconds=ANSWER_SECONDS,
    )
    try:
        yield target, requests
    finally:
        await target.close()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (of_endless_pieces, "it answered 500"),
        (of_drops, "no whole answer within 0.5 s"),
        (of_a_body_in_drops, "no whole answer within 0.5 s"),
        (of_endless_headers, "the connection broke, or the answer is not HTTP"),
        (of_nonsense, "the connection broke, or the answer is not HTTP"),
        (of_a_broken_connection, "the connection broke, or the answer is not HTTP"),
        (of_itself, "it answered 307"),
    ],
)
async def test_a_hostile_answer_is_a_failure_with_a_plain_reason(how: Answering, message: str) -> None:
    async with answering(how) as (target, requests):
        for _ in range(2):
            # The second would read leftovers of the first on the only connection.
            with pytest.raises(NotDelivered) as failure:
                await target.post("id.1", b"{}")
            assert str(failure.value) == message

    assert len(requests) == 2


async def test_of_an_answer_of_100_megabytes_the_status_counts_and_little_is_read() -> None:
    megabytes_sent = []

    async def of_100_megabytes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n")
        megabytes_sent.append(0)
        for _number in range(100):
            writer.write(MEGABYTE)
            await writer.drain()
            megabytes_sent[-1] += 1

    async with answering(of_100_megabytes) as (target, requests):
        for _ in range(2):
            await target.post("id.1", b"{}")

    assert len(requests) == 2
    # Buffers of the operating system accept some megabytes that are not read.
    assert max(megabytes_sent) < 50


@pytest.mark.parametrize(
    ("host", "path", "sent"),
    [
        ("::1", "/hooks", "POST /hooks HTTP/1.1\r\nhost: [::1]:"),
        (
            "127.0.0.1",
            "/böse nacht/ö?q=ü",
            "POST /b%C3%B6se%20nacht/%C3%B6?q=%C3%BC HTTP/1.1\r\nhost: 127.0.0.1:",
        ),
    ],
)
async def test_ipv6_addresses_and_international_paths_are_delivered_to(
    host: str, path: str, sent: str
) -> None:
    async with answering(taken, host, path) as (target, requests):
        await target.post("id.1", b"{}")

    (request,) = requests
    assert request.decode().startswith(sent)
    assert request.lower().count(b"host:") == 1


async def test_a_closed_port_is_reported() -> None:
    async with answering(of_itself) as (target, _):
        pass
    with pytest.raises(NotDelivered, match="cannot connect to it"):
        await target.post("id.1", b"{}")


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("localhost", "its host has a private address"),
        ("169.254.169.254", "its host has a private address"),
        ("[::ffff:10.0.0.1]", "its host has a private address"),
        ("0x7f000001", "its host has a private address"),
        ("nowhere.invalid", "its host name cannot be resolved"),
    ],
)
async def test_where_only_we_should_reach_is_not_called(host: str, message: str) -> None:
    target = Endpoint.of(f"https://{host}/hooks", [KEY], connections=1, allow_private=False)
    try:
        with pytest.raises(NotDelivered, match=message):
            await target.post("id.1", b"{}")
    finally:
        await target.close()
