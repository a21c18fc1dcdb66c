"""The tap on the client library's stream, compared to the library's own codec."""

import asyncio
import gc
import logging
import struct
import warnings
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any

import aio_pika
import pamqp.frame
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.commands import Basic, Connection
from pamqp.header import ContentHeader
from yarl import URL

from tests.support.amqp_tables import HEADERS, MESSAGE_ID, OURS, TIMESTAMP, TYPE, field, table
from worker.amqp.codec import (
    A_HEARTBEAT,
    LARGEST_PROPERTIES,
    Properties,
    ack_frame,
    publish_frames,
    read_properties,
)
from worker.amqp.tap import (
    ChannelLost,
    ChannelTap,
    Delivery,
    MessageReturned,
    Nacked,
    TappedReader,
    TappedWriter,
)
from worker.amqp.transport import TappedConnection

CHANNEL = 3

short_text = st.text(max_size=40)
our_headers = st.dictionaries(
    short_text, st.text(max_size=300) | st.integers(min_value=-(2**63), max_value=2**63 - 1), max_size=12
)
anybodys_headers = st.dictionaries(
    short_text,
    st.text(max_size=300)
    | st.integers(min_value=-(2**31), max_value=2**31)
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=False, width=32)
    | st.decimals(min_value=0, max_value=10**6, places=2).map(lambda number: number.normalize() + 0)
    | st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(
        lambda instant: instant.replace(microsecond=0)
    )
    | st.lists(st.dictionaries(short_text, short_text, max_size=3), max_size=3)
    | st.recursive(st.booleans(), lambda inner: st.dictionaries(short_text, inner, max_size=2), max_leaves=3),
    max_size=12,
)


def frames_of(data: bytes) -> list[Any]:
    frames = []
    while data:
        consumed, channel, frame = pamqp.frame.unmarshal(data)
        assert channel == CHANNEL
        frames.append(frame)
        data = data[consumed:]
    return frames


def delivered(
    tag: int, body: bytes, headers: dict[str, Any], *, consumer: str = "orders.1", piece: int = 100_000
) -> bytes:
    """A message as a broker sends it."""
    properties = Basic.Properties(
        content_type="application/json",
        headers=headers,
        delivery_mode=2,
        message_id="m.1",
        message_type="ovoko.order.created",
        app_id="stockhook",
    )
    method = Basic.Deliver(consumer_tag=consumer, delivery_tag=tag, redelivered=tag % 2 == 0, routing_key="r")
    parts = [method, ContentHeader(body_size=len(body), properties=properties)]
    parts += [ContentBody(body[start : start + piece]) for start in range(0, len(body), piece)]
    return b"".join(pamqp.frame.marshal(part, CHANNEL) for part in parts)


@given(st.integers(min_value=1, max_value=2**63 - 1), st.booleans())
def test_an_ack_is_the_same_as_the_client_librarys(tag: int, is_multiple: bool) -> None:
    theirs = pamqp.frame.marshal(Basic.Ack(delivery_tag=tag, multiple=is_multiple), CHANNEL)

    assert ack_frame(CHANNEL, tag, is_multiple=is_multiple) == theirs


@given(our_headers, st.binary(max_size=3000), short_text, short_text)
def test_a_publish_reads_back_in_the_client_librarys_codec(
    headers: dict[str, str | int], body: bytes, routing_key: str, message_type: str
) -> None:
    properties = Properties(len(body), "m.7", message_type, headers)
    method, header, *bodies = frames_of(
        publish_frames(CHANNEL, "stockhook.events", routing_key, properties, body, frame_max=1000)
    )

    assert (method.exchange, method.routing_key, method.mandatory) == ("stockhook.events", routing_key, True)
    assert header.body_size == len(body)
    assert dict(header.properties.headers or {}) == headers
    assert (header.properties.delivery_mode, header.properties.content_type) == (2, "application/json")
    assert (header.properties.message_id, header.properties.message_type) == ("m.7", message_type)
    assert b"".join(piece.value for piece in bodies) == body
    assert all(len(piece.value) <= 1000 - 8 for piece in bodies)


def test_a_name_too_long_for_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="range"):
        publish_frames(1, "stockhook.events", "x" * 256, Properties(0, "m", "t", {}), b"", 1000)


@given(anybodys_headers)
def test_properties_are_read_as_the_client_librarys_codec_reads_them(headers: dict[str, Any]) -> None:
    ours = ContentHeader(
        body_size=5,
        properties=Basic.Properties(
            content_type="application/json",
            headers=headers,
            delivery_mode=2,
            message_id="m.1",
            message_type="t",
            app_id="stockhook",
        ),
    )
    payload = ours.marshal()
    read_again = ContentHeader()
    read_again.unmarshal(payload)

    assert read_properties(b"...." + payload, 4, len(payload)) == Properties(
        5, "m.1", "t", read_again.properties.headers or {}
    )


@given(st.lists(st.sampled_from(["priority", "expiration", "user_id", "reply_to"]), unique=True))
def test_a_message_of_another_shape_is_read_too(others: list[str]) -> None:
    values = {"priority": 1, "expiration": "5", "user_id": "u", "reply_to": "q"}
    properties = Basic.Properties(message_type="t", **{name: values[name] for name in others})
    payload = ContentHeader(body_size=0, properties=properties).marshal()

    assert read_properties(payload, 0, len(payload)) == Properties(0, "", "t", {})


async def read(reader: TappedReader, data: bytes, cuts: list[int]) -> bytes:
    """Feed data in pieces; return the bytes for the client library."""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(edges):
        reader.feed_data(data[start:end])
    reader.feed_eof()
    return await reader.read()


def tapped(on_delivery: Callable[[Delivery], None]) -> tuple[TappedReader, ChannelTap, list[bytes]]:
    written: list[bytes] = []
    reader = TappedReader(asyncio.get_running_loop())
    tap = ChannelTap(CHANNEL, written.append, 131_072)
    tap.consume("orders.1", "stockhook.orders", on_delivery)
    reader.tap(CHANNEL, tap)
    return reader, tap, written


@given(st.lists(st.binary(max_size=400), max_size=5), st.lists(st.integers(min_value=0), max_size=20))
def test_deliveries_are_extracted_after_any_segmentation(bodies: list[bytes], cuts: list[int]) -> None:
    async def play() -> None:
        got: list[Delivery] = []
        reader, _, _ = tapped(got.append)
        other = pamqp.frame.marshal(Connection.Blocked(reason="low on memory"), 0)
        data = b"".join(
            delivered(tag, body, {"x-place": tag}, piece=150) + other for tag, body in enumerate(bodies, 1)
        )
        passed = await read(reader, data, cuts)

        assert [(delivery.tag, delivery.body) for delivery in got] == list(enumerate(bodies, 1))
        assert [delivery.redelivered for delivery in got] == [d.tag % 2 == 0 for d in got]
        assert all(delivery.type == "ovoko.order.created" for delivery in got)
        assert passed.replace(pamqp.frame.marshal(pamqp.frame.heartbeat.Heartbeat(), 0), b"") == other * len(
            bodies
        )

    asyncio.run(play())


async def test_a_delivery_to_another_consumer_passes_through_unchanged() -> None:
    reader, _, _ = tapped(lambda _: None)
    data = delivered(1, b"{}", {}, consumer="another")

    assert await read(reader, data, [10, 50]) == data


async def test_bytes_that_are_no_amqp_pass_through() -> None:
    reader, _, _ = tapped(lambda _: None)

    assert await read(reader, b"AMQP\x00\x00\x09\x01", []) == b"AMQP\x00\x00\x09\x01"


def from_broker(frame: Any) -> bytes:
    return pamqp.frame.marshal(frame, CHANNEL)


def publish(tap: ChannelTap) -> asyncio.Future[None]:
    return tap.publish("stockhook.events", "ovoko.order.created", "t", {"x-attempt": 1}, b"{}", 5.0)


async def test_each_publish_gets_its_result() -> None:
    reader, tap, written = tapped(lambda _: None)
    confirms = [publish(tap) for _ in range(5)]
    returned = frames_of(written[2])[1]
    reader.feed_data(from_broker(Basic.Ack(delivery_tag=2, multiple=True)))
    reader.feed_data(
        from_broker(Basic.Return(reply_code=312, reply_text="NO_ROUTE", exchange="e", routing_key="r"))
        + from_broker(ContentHeader(body_size=2, properties=returned.properties))
        + from_broker(ContentBody(b"{}"))
        + from_broker(Basic.Ack(delivery_tag=3))
    )
    reader.feed_data(from_broker(Basic.Nack(delivery_tag=4)))
    tap.close()
    outcomes = await asyncio.gather(*confirms, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [
        type(None),
        type(None),
        MessageReturned,
        Nacked,
        ChannelLost,
    ]


async def test_a_busy_stream_is_not_taken_for_a_dead_one() -> None:
    """The broker sends no heartbeats while it sends deliveries, which the client library does not see."""
    reader, _, _ = tapped(lambda _: None)

    assert await read(reader, delivered(1, b"{}", {}), []) == pamqp.frame.marshal(
        pamqp.frame.heartbeat.Heartbeat(), 0
    )


def test_a_publish_or_ack_over_a_connection_that_just_closed_is_lost() -> None:
    """The event loop has noticed the end and raises; the client library has not noticed yet."""

    async def play() -> None:
        loop = asyncio.get_running_loop()
        # uvloop would wait for an open server at its end, also after a failure.
        with closing(await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)) as server:
            transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
            tap = ChannelTap(CHANNEL, writer_to(transport).write_soon, 1000)
            written = publish(tap)
            await asyncio.sleep(0)
            waiting = publish(tap)
            transport.abort()
            await asyncio.sleep(0.01)
            with pytest.raises(RuntimeError):
                transport.write(b"it raises")

            with pytest.raises(ChannelLost):
                await publish(tap)
            with pytest.raises(ChannelLost):
                tap.ack(1, is_multiple=True)

            tap.close()
            for unconfirmed in (written, waiting):
                with pytest.raises(ChannelLost):
                    await unconfirmed

    uvloop.run(play())


class Recorder(asyncio.Transport):
    """Each write as the socket gets it."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self._is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        self._is_closed = True


def writer_to(transport: asyncio.WriteTransport) -> TappedWriter:
    loop = asyncio.get_running_loop()
    reader = TappedReader(loop)
    return TappedWriter(transport, asyncio.StreamReaderProtocol(reader, loop=loop), reader, loop)


async def test_messages_are_written_together_and_nothing_overtakes_them() -> None:
    recorder = Recorder()
    writer = writer_to(recorder)
    writer.write_soon(b"message 1 ")
    writer.write_soon(b"message 2 ")
    waiting = list(recorder.writes)
    writer.write(b"close of the channel")
    writer.write_soon(b"message 3 ")
    await asyncio.sleep(0)
    writer.write_soon(b"message 4 ")
    writer.write_soon(b"message 5 ")
    await asyncio.sleep(0)
    writer.close()

    assert waiting == []
    assert recorder.writes == [
        b"message 1 message 2 ",
        b"close of the channel",
        b"message 3 ",
        b"message 4 message 5 ",
    ]


async def test_a_connection_that_could_not_be_opened_is_forgotten_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Even without an event loop: the library would try to close it, and warn on standard error."""
    closed_port = URL("amqp://127.0.0.1:1/")
    connections = [TappedConnection(closed_port)]
    # pytest's log records, and exceptions of pytest.raises, would keep a reference to it.
    for name in ("aio_pika", "aiormq"):
        caplog.set_level(logging.CRITICAL + 1, name)
    with suppress(ConnectionError):
        await connections[0].connect(timeout=5)

    def forget() -> None:
        connections.clear()
        gc.collect()

    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        await asyncio.to_thread(forget)

    assert [str(warning.message) for warning in given] == []


@pytest.mark.parametrize("ticks", range(6))
async def test_an_opening_that_is_cancelled_as_it_succeeds_leaves_no_connection(
    monkeypatch: pytest.MonkeyPatch, ticks: int
) -> None:
    async def open_at_once(connection: aio_pika.Connection, *_: object) -> None:
        await asyncio.sleep(0)
        connection.transport = object()  # type: ignore[assignment]  # an open one, for all that is looked at

    monkeypatch.setattr(aio_pika.Connection, "connect", open_at_once)
    connection, aborted = TappedConnection(URL("amqp://127.0.0.1:1/")), asyncio.Event()
    monkeypatch.setattr(connection.tapped, "abort", aborted.set)
    opening = asyncio.create_task(connection.connect(timeout=5))
    for _ in range(ticks):
        await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    is_open = not opening.cancelled()
    connection.transport = None

    assert is_open != aborted.is_set() or ticks == 0
    assert connection._closed.done() != is_open or ticks == 0


async def test_a_publish_times_out_and_its_late_confirm_is_ignored() -> None:
    reader, tap, _ = tapped(lambda _: None)
    hasty = tap.publish("stockhook.events", "ovoko.order.created", "t", {}, b"{}", 0.05)
    patient = publish(tap)

    with pytest.raises(TimeoutError):
        await hasty
    reader.feed_data(from_broker(Basic.Ack(delivery_tag=2, multiple=True)))
    await patient


def header_frame(flags: int, properties: bytes, body_size: int) -> bytes:
    """A content header that our codecs would not write."""
    payload = struct.pack(">HHQH", 60, 0, body_size, flags) + properties
    return struct.pack(">BHI", 2, CHANNEL, len(payload)) + payload + b"\xce"


def delivered_oddly(header: bytes, body: bytes, tag: int = 1) -> bytes:
    method = Basic.Deliver(consumer_tag="orders.1", delivery_tag=tag, redelivered=False, routing_key="r")
    return pamqp.frame.marshal(method, CHANNEL) + header + pamqp.frame.marshal(ContentBody(body), CHANNEL)


@given(
    st.integers(min_value=0, max_value=0xFFFF),
    st.binary(max_size=80)
    | st.lists(
        st.sampled_from(
            [
                b"F",
                b"A",
                b"S",
                b"T",
                b"D",
                b"x",
                b"l",
                b"V",
                b"\xff",
                table(),
                table(OURS),
                b"\x00\x00\x00\x05",
            ]
        ),
        max_size=30,
    ).map(b"".join),
    st.binary(min_size=1, max_size=50),
    st.lists(st.integers(min_value=0), max_size=5),
)
def test_properties_of_any_bytes_delay_neither_their_message_nor_the_next(
    flags: int, properties: bytes, body: bytes, cuts: list[int]
) -> None:
    async def play() -> None:
        got: list[Delivery] = []
        reader, _, _ = tapped(got.append)
        data = delivered_oddly(header_frame(flags, properties, len(body)), body)
        await read(reader, data + delivered(2, b"next", {"x-attempt": 1}), cuts)

        assert [(delivery.tag, delivery.body) for delivery in got] == [(1, body), (2, b"next")]
        assert got[1].headers == {"x-attempt": 1}

    asyncio.run(play())


@pytest.mark.parametrize(
    ("flags", "properties", "headers"),
    [
        (HEADERS | TIMESTAMP, table(OURS) + struct.pack(">Q", 1772355600000000), {"x-attempt": 3}),
        (HEADERS | TIMESTAMP, table(OURS) + b"\xff" * 8, {"x-attempt": 3}),
        (HEADERS | MESSAGE_ID | TYPE, table(OURS) + b"\x01\xff\x01\xff", {"x-attempt": 3}),
        (
            HEADERS,
            table(OURS, field(b"t", b"T" + struct.pack(">Q", 2**63))),
            {"x-attempt": 3, "t": "9223372036854775808"},
        ),
        (HEADERS, table(OURS, field(b"\xff", b"S\x00\x00\x00\x01\xff")), {"x-attempt": 3, "": "\ufffd"}),
        (
            HEADERS,
            table(OURS, field(b"d", b"D\xff\xff\xff\xff\xff")),
            {"x-attempt": 3, "d": Decimal("4294967295E-255")},
        ),
        (HEADERS, table(OURS, field(b"odd", b"?")), {}),
        (HEADERS, table(OURS)[:-1], {}),
        (
            HEADERS,
            table(
                OURS, field(b"a", b"S" + struct.pack(">I", LARGEST_PROPERTIES)) + b"a" * LARGEST_PROPERTIES
            ),
            {},
        ),
        (HEADERS | 0b10, table(OURS), {}),
    ],
    ids=lambda value: None,
)
def test_readable_properties_are_read_beside_unreadable_ones_and_headers_are_empty_otherwise(
    flags: int, properties: bytes, headers: dict[str, object]
) -> None:
    payload = header_frame(flags, properties, 5)[7:-1]

    assert read_properties(payload, 0, len(payload)) == Properties(5, "", "", headers)


def test_headers_nested_too_deeply_are_no_headers() -> None:
    value = b"F" + table()
    for _ in range(2000):
        value = b"F" + table(field(b"", value))
    payload = header_frame(HEADERS, table(OURS, field(b"deep", value)), 5)[7:-1]

    assert read_properties(payload, 0, len(payload)).headers == {}


@given(st.binary(max_size=255))
def test_a_type_that_was_read_can_be_published_again(message_type: bytes) -> None:
    payload = header_frame(TYPE, bytes((len(message_type),)) + message_type, 0)[7:-1]
    read_type = read_properties(payload, 0, len(payload)).type

    assert publish_frames(CHANNEL, "e", "r", Properties(0, "m", read_type, {}), b"", 1000)


async def test_the_client_library_gets_its_message_without_unreadable_properties() -> None:
    reader, _, _ = tapped(lambda _: None)
    method = from_broker(
        Basic.GetOk(delivery_tag=1, redelivered=True, exchange="e", routing_key="abc", message_count=0)
    ).replace(b"abc", b"\xff\xfe\xfd")
    header = header_frame(TIMESTAMP | TYPE, b"\xff" * 8 + b"\x01\xff", 2)
    passed = await read(reader, method + header + from_broker(ContentBody(b"{}")), [])
    ok, bare, body = frames_of(passed.replace(A_HEARTBEAT, b""))

    assert (ok.delivery_tag, ok.redelivered) == (1, True)
    assert (bare.body_size, bare.properties.headers, body.value) == (2, None, b"{}")


async def test_a_return_that_cannot_be_read_leaves_no_publish_confirmed() -> None:
    """The broker also confirms returned messages, and it is unknown which one this was."""
    reader, tap, _ = tapped(lambda _: None)
    confirms = [publish(tap) for _ in range(2)]
    returned = Basic.Return(reply_code=312, reply_text="NO_ROUTE", exchange="e", routing_key="r")
    reader.feed_data(from_broker(returned) + header_frame(MESSAGE_ID, b"\x03a.x", 2))
    reader.feed_data(from_broker(ContentBody(b"{}")) + from_broker(Basic.Ack(delivery_tag=2, multiple=True)))
    outcomes = await asyncio.gather(*confirms, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [ChannelLost, ChannelLost]


async def test_the_client_library_notices_every_kind_of_end_of_a_connection() -> None:
    reader, _, _ = tapped(lambda _: None)
    reader.set_exception(OverflowError("a bug"))

    with pytest.raises(ConnectionError, match="OverflowError"):
        await reader.readexactly(1)
