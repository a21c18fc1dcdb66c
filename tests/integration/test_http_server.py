"""The ingest's HTTP server on real sockets, with a sink in memory."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from tests.support.http_shapes import CHUNKED, EVENT, LAST_CHUNK, NO_ANSWER, Shape, chunk, head, send, shapes
from tests.support.ingest_server import SECRET, WHOLE, Client, Server, client, server
from tests.support.stack import until
from worker.config.gateway import read_key, read_scheme
from worker.ingest.connection_limits import ConnectionLimits
from worker.ingest.exchange import Request, Response
from worker.ingest.http_connection import Limits
from worker.ingest.http_server import serving
from worker.intake.signature import sign
from worker.observability.listening import CannotListen


@pytest.mark.parametrize("shape", list(shapes(SECRET)), ids=lambda shape: shape.name)
async def test_a_request_is_answered_as_its_bytes_deserve_and_stored_if_it_is_whole(shape: Shape) -> None:
    async with server() as at_once:
        statuses = [await send(at_once.port, shape)]
    async with server() as in_pieces:
        # Not every byte of long ones.
        statuses.append(await send(in_pieces.port, shape, piece_bytes=max(1, len(shape.wire) // 500)))

    assert set(statuses) <= shape.statuses
    assert [len(at_once.stored.messages), len(in_pieces.stored.messages)] == [int(shape.is_event)] * 2
    if shape.is_event:
        assert [message.body for message in at_once.stored.messages] == [EVENT]


async def test_a_body_whose_rest_does_not_arrive_is_too_slow() -> None:
    async with server(body_timeout=0.3) as running, client(running.port) as sender:
        sender.writer.write(head(SECRET, f"Content-Length: {len(EVENT)}") + EVENT[:-1])

        assert await sender.status() == 408
    assert running.stored.messages == []


async def test_a_malformed_request_is_answered_with_a_problem_and_the_connection_ends() -> None:
    async with server() as running, client(running.port) as sender:
        sender.writer.write(head(SECRET, "Content-Length: x") + EVENT)
        answer = await sender.answer()

        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"\r\ncontent-type: application/problem+json\r\n" in answer
        assert b"\r\nconnection: close\r\n" in answer
        assert await sender.is_closed()


@pytest.mark.parametrize("doubled", ["svix-signature", "svix-id", "svix-timestamp"])
async def test_a_request_with_two_lines_of_a_gateways_header_is_refused(doubled: str) -> None:
    """Both lines have the right value: a proxy and the ingest could read different ones."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    scheme = read_scheme("svix")
    signed = sign(scheme, [read_key(scheme, secret)], EVENT, message_id="msg_1", sent_at=datetime.now(UTC))
    lines = [f"{name}: {value}" for name, value in signed.items()]
    length = f"Content-Length: {len(EVENT)}"
    async with (
        server(gateway="svix", gateway_secrets=secret) as running,
        client(running.port) as once,
        client(running.port) as twice,
    ):
        once.writer.write(head(SECRET, length, *lines) + EVENT)
        twice.writer.write(head(SECRET, length, *lines, f"{doubled.title()}: {signed[doubled]}") + EVENT)
        assert await once.status() == 200
        answer = await twice.answer()

    assert answer.startswith(b"HTTP/1.1 401 ")
    assert f"is doubled (header {doubled})" in answer.decode()
    assert len(running.stored.messages) == 1


async def test_a_webhook_without_a_length_is_answered_411_and_its_connection_ends() -> None:
    async with server() as running, client(running.port) as sender:
        sender.writer.write(head(SECRET))
        answer = await sender.answer()

        assert answer.startswith(b"HTTP/1.1 411 Length Required\r\n")
        assert b"\r\nconnection: close\r\n" in answer
        assert await sender.is_closed()
    assert running.stored.messages == []


async def test_many_requests_use_one_connection_and_are_answered_in_order() -> None:
    async with server() as running, client(running.port) as sender:
        wrong = head("wrong", "Content-Length: 2") + b"{}"
        sender.writer.write(WHOLE + wrong + WHOLE)
        statuses = [await sender.status() for _ in range(3)]
        sender.writer.write(WHOLE)

        assert [*statuses, await sender.status()] == [200, 401, 200, 200]


async def test_requests_sent_far_ahead_of_their_answers_are_bounded() -> None:
    async with server() as running, client(running.port) as sender:
        running.stored.may_store.clear()
        sender.writer.write(WHOLE * 100)
        await sender.writer.drain()
        await asyncio.sleep(0)
        running.stored.may_store.set()
        answers = (await asyncio.wait_for(sender.reader.read(), 20)).split(b"HTTP/1.1 ")[1:]

        assert {answer[:3] for answer in answers[:-1]} == {b"200"}
        assert answers[-1].startswith(b"400")
        assert len(running.stored.messages) == len(answers) - 1


@pytest.mark.parametrize("blanks", ["", " ", "\t", " \t "])
async def test_a_sender_that_expects_100_continue_gets_it_once_the_secret_is_right(blanks: str) -> None:
    length = f"Content-Length: {len(EVENT)}"
    async with server() as running:
        async with client(running.port) as sender:
            sender.writer.write(head(SECRET, length, f"Expect: 100-continue{blanks}"))
            invited = await sender.status()
            sender.writer.write(EVENT)

            assert [invited, await sender.status()] == [100, 200]
        async with client(running.port) as stranger:
            stranger.writer.write(head("wrong", length, "Expect: 100-continue"))

            assert await stranger.status() == 401


async def test_an_answer_reaches_a_sender_that_is_still_sending() -> None:
    """After an immediate close, the sender's system would drop the unread answer."""
    async with server() as running, client(running.port) as sender:
        sender.writer.write(head(SECRET, "Content-Length: 50000000") + bytes(3_000_000))
        await sender.writer.drain()

        assert await sender.status() == 413


async def test_a_body_that_is_larger_than_the_buffers_arrives_whole() -> None:
    body = b" " * 3_000_000 + EVENT
    async with server(body_limit=4_000_000) as running, client(running.port) as sender:
        sender.writer.write(head(SECRET, CHUNKED) + chunk(body) + LAST_CHUNK)

        assert await sender.status() == 200
        assert len(running.stored.messages[0].body) == len(body)


async def test_an_answered_connection_stays_idle_longer_than_a_head_may_take() -> None:
    async with (
        server(Limits(idle_seconds=60, header_seconds=0.3)) as running,
        client(running.port) as idle,
        client(running.port) as silent,
        client(running.port) as slow,
    ):
        idle.writer.write(WHOLE)
        assert await idle.status() == 200
        slow.writer.write(WHOLE[:40])

        assert await slow.status() == 408
        assert await silent.is_closed()
        idle.writer.write(WHOLE)
        assert await idle.status() == 200
        idle.writer.write(WHOLE[:40])
        assert await idle.status() == 408


async def test_a_head_that_follows_in_one_packet_with_a_whole_request_has_its_deadline_too() -> None:
    async with server(Limits(idle_seconds=60, header_seconds=0.3)) as running, client(running.port) as sender:
        sender.writer.write(WHOLE[:40])
        await sender.writer.drain()
        sender.writer.write(WHOLE[40:] + WHOLE[:40])

        assert [await sender.status(), await sender.status()] == [200, 408]


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    async with server(Limits(idle_seconds=0.3)) as running, client(running.port) as sender:
        sender.writer.write(WHOLE)

        assert await sender.status() == 200
        assert await sender.is_closed()


async def test_a_connection_that_reads_no_answers_is_closed() -> None:
    async with server(Limits(idle_seconds=0.3)) as running, client(running.port) as sender:
        socket_of_sender: socket.socket = sender.writer.get_extra_info("socket")
        socket_of_sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sender.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a WriteTransport in typeshed

        async def is_cut_off() -> bool:
            sender.writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 8)
            return sender.writer.transport.is_closing()

        await until(is_cut_off, "it is cut off")


async def test_beyond_the_limit_the_longest_waiting_connection_is_closed() -> None:
    async with (
        server(Limits(idle_seconds=60, header_seconds=60, connections=ConnectionLimits(total=4))) as running,
        client(running.port) as known,
        client(running.port) as first,
    ):
        known.writer.write(WHOLE)
        assert await known.status() == 200
        async with client(running.port) as second, client(running.port) as third:
            third.writer.write(WHOLE)

            assert await third.status() == 200
            assert await first.is_closed()
            second.writer.write(WHOLE)
            known.writer.write(WHOLE)
            assert [await second.status(), await known.status()] == [200, 200]


async def _in_flight(running: Server, sender: Client) -> None:
    running.stored.may_store.clear()
    sender.writer.write(WHOLE)
    await sender.writer.drain()
    async with client(running.port) as other:
        other.writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        await other.status()


async def test_at_its_end_a_request_in_flight_is_answered_and_idle_connections_close() -> None:
    async with client_of_ending_server(_in_flight) as (running, sender, idle, ending):
        assert await idle.is_closed()
        assert not ending.done()
        running.stored.may_store.set()
        answer = await sender.answer()

        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nconnection: close\r\n" in answer
        await asyncio.wait_for(ending, 20)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", running.port)


@asynccontextmanager
async def client_of_ending_server(
    before: Callable[[Server, Client], Awaitable[None]],
) -> AsyncIterator[tuple[Server, Client, Client, "asyncio.Task[None]"]]:
    running = server()
    entered = await running.__aenter__()
    async with client(entered.port) as sender, client(entered.port) as idle:
        idle.writer.write(WHOLE)
        assert await idle.status() == 200
        await before(entered, sender)

        async def end() -> None:
            await running.__aexit__(None, None, None)

        ending = asyncio.create_task(end())
        yield entered, sender, idle, ending


async def test_neither_a_closed_connection_nor_a_slow_sender_delays_the_end() -> None:
    async def never(request: Request) -> Response:
        async for _ in request.body:
            pass
        return Response(200, b"")

    async with serving(never, "127.0.0.1", 0, Limits(75.0), 0.3) as port, client(port) as slow:
        slow.writer.write(head(SECRET, "Content-Length: 10") + b"{")
        async with client(port) as other:
            other.writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await other.status()


async def test_a_taken_port_is_one_sentence_that_names_the_setting() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(CannotListen, match=f"{port}.*STOCKHOOK_INGEST_PORT"):
            async with serving(_unused, "127.0.0.1", port, Limits(75.0), 1):
                pass


async def _unused(request: Request) -> Response:
    raise AssertionError("no request comes")


def test_no_shape_has_the_name_of_another() -> None:
    names = [shape.name for shape in shapes(SECRET)]

    assert len(names) == len(set(names))
    assert NO_ANSWER not in {
        status for shape in shapes(SECRET) if shape.is_event for status in shape.statuses
    }
