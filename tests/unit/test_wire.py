"""Messages past the client library, held against the client library's own codec."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.commands import Basic, Connection
from pamqp.header import ContentHeader

from worker.frames import Properties, publish_frames, read_properties
from worker.wire import ChannelTap, Delivery, Lost, Refused, Returned, TappedReader

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
    | st.lists(st.dictionaries(short_text, short_text, max_size=3), max_size=3),
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
    """Feed data in pieces; what is passed on to the client library."""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(edges):
        reader.feed_data(data[start:end])
    reader.feed_eof()
    return await reader.read()


def tapped(on_delivery: Callable[[Delivery], None]) -> tuple[TappedReader, ChannelTap, list[bytes]]:
    written: list[bytes] = []
    reader = TappedReader(asyncio.get_running_loop())
    tap = ChannelTap(CHANNEL, written.append, 131_072)
    tap.consume("orders.1", on_delivery)
    reader.tap(CHANNEL, tap)
    return reader, tap, written


@given(st.lists(st.binary(max_size=400), max_size=5), st.lists(st.integers(min_value=0), max_size=20))
def test_deliveries_are_taken_out_however_the_stream_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
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


async def test_a_delivery_to_somebody_elses_consumer_passes_through_whole() -> None:
    reader, _, _ = tapped(lambda _: None)
    data = delivered(1, b"{}", {}, consumer="another")

    assert await read(reader, data, [10, 50]) == data


async def test_what_is_no_amqp_passes_through() -> None:
    reader, _, _ = tapped(lambda _: None)

    assert await read(reader, b"AMQP\x00\x00\x09\x01", []) == b"AMQP\x00\x00\x09\x01"


def from_broker(frame: Any) -> bytes:
    return pamqp.frame.marshal(frame, CHANNEL)


def publish(tap: ChannelTap) -> asyncio.Future[None]:
    return tap.publish("stockhook.events", "ovoko.order.created", "t", {"x-attempt": 1}, b"{}", 5.0)


async def test_each_publish_learns_what_became_of_it() -> None:
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

    assert [type(outcome) for outcome in outcomes] == [type(None), type(None), Returned, Refused, Lost]


async def test_a_busy_stream_is_not_taken_for_a_dead_one() -> None:
    """The broker sends no heartbeat beside deliveries, and the client library sees no delivery."""
    reader, _, _ = tapped(lambda _: None)

    assert await read(reader, delivered(1, b"{}", {}), []) == pamqp.frame.marshal(
        pamqp.frame.heartbeat.Heartbeat(), 0
    )


async def test_a_publish_that_waits_too_long_says_so_and_its_late_confirm_is_nothing() -> None:
    reader, tap, _ = tapped(lambda _: None)
    hasty = tap.publish("stockhook.events", "ovoko.order.created", "t", {}, b"{}", 0.05)
    patient = publish(tap)

    with pytest.raises(TimeoutError):
        await hasty
    reader.feed_data(from_broker(Basic.Ack(delivery_tag=2, multiple=True)))
    await patient
