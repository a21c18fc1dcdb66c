"""The AMQP 0-9-1 frames of a message: written for a publish, read for a delivery. Pure.

The client library's own codec makes an object of each frame and of each value in it. This one knows the
shape in which we publish, and leaves every other to that codec.
"""

from collections.abc import Mapping
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from pamqp import decode
from pamqp.header import ContentHeader

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME = Struct(">BHI")
FRAME_END = b"\xce"
OVERHEAD = FRAME.size + len(FRAME_END)
A_HEARTBEAT = FRAME.pack(HEARTBEAT, 0, 0) + FRAME_END

DELIVER = b"\x00\x3c\x00\x3c"
RETURN = b"\x00\x3c\x00\x32"
ACK = b"\x00\x3c\x00\x50"
NACK = b"\x00\x3c\x00\x78"
_PUBLISH = b"\x00\x3c\x00\x28\x00\x00"

_LONG_LONG = Struct(">Q")
_LONG = Struct(">I")
_SIGNED = Struct(">q")
_CONTENT_HEADER = Struct(">HHQH")

# Kinds of values in a table of headers.
_TEXT = ord("S")
_INTEGER = ord("l")

_BASIC = 60
_MANDATORY = b"\x01"
_OPTIONAL = b"\x00"
_PERSISTENT = b"\x02"
_APPLICATION = b"\x09stockhook"

JSON = "application/json"

# content_type, headers, delivery_mode, message_id, type, app_id: what our messages have, and no more.
_OUR_PROPERTIES = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7 | 1 << 5 | 1 << 3


class Properties(NamedTuple):
    """What comes before a message's body. `size` is the body's, in bytes."""

    size: int
    message_id: str
    type: str
    headers: Mapping[str, object]


class Outline(NamedTuple):
    """What a delivery's method frame says."""

    consumer_tag: str
    delivery_tag: int
    redelivered: bool


def publish_frames(
    channel: int,
    exchange: str,
    routing_key: str,
    properties: Properties,
    body: bytes,
    frame_max: int,
    content_type: str = JSON,
    *,
    mandatory: bool = True,
) -> bytes:
    """A persistent publish; one that is `mandatory` comes back where no queue takes it.

    Body frames are `frame_max` bytes at most.

    Raises:
        ValueError: A name is longer than 255 bytes.
    """
    method = _PUBLISH + _name(exchange) + _name(routing_key) + (_MANDATORY if mandatory else _OPTIONAL)
    header = b"".join(
        (
            _CONTENT_HEADER.pack(_BASIC, 0, len(body), _OUR_PROPERTIES),
            _name(content_type),
            _table(properties.headers),
            _PERSISTENT,
            _short(properties.message_id),
            _name(properties.type),
            _APPLICATION,
        )
    )
    room = frame_max - OVERHEAD
    pieces = [body[start : start + room] for start in range(0, len(body), room)]
    frames = [_frame(METHOD, channel, method), _frame(HEADER, channel, header)]
    return b"".join(frames + [_frame(BODY, channel, piece) for piece in pieces])


def read_outline(data: bytes, position: int) -> Outline:
    """Of a delivery's method frame, whose payload begins at `position`."""
    tag_at = position + 5
    tag_end = tag_at + data[tag_at - 1]
    (delivery_tag,) = _LONG_LONG.unpack_from(data, tag_end)
    return Outline(data[tag_at:tag_end].decode(errors="replace"), delivery_tag, bool(data[tag_end + 8] & 1))


def read_confirm(data: bytes, position: int) -> tuple[int, bool]:
    """The delivery tag of an ack or nack of the broker's, and whether it means all before, too."""
    (delivery_tag,) = _LONG_LONG.unpack_from(data, position + 4)
    return delivery_tag, bool(data[position + 12] & 1)


def read_properties(data: bytes, position: int, size: int) -> Properties:
    """Of a content header frame, whose payload of `size` bytes begins at `position`."""
    _, _, body_size, flags = _CONTENT_HEADER.unpack_from(data, position)
    if flags != _OUR_PROPERTIES:
        return _read_any_properties(data[position : position + size])
    position += _CONTENT_HEADER.size
    position += 1 + data[position]
    headers, position = _read_table(data, position)
    position += 1
    message_id, position = _read_short(data, position)
    message_type, _ = _read_short(data, position)
    return Properties(body_size, message_id, message_type, headers)


def _read_any_properties(payload: bytes) -> Properties:
    header = ContentHeader()
    header.unmarshal(payload)
    found = header.properties
    return Properties(
        header.body_size or 0, found.message_id or "", found.message_type or "", found.headers or {}
    )


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return FRAME.pack(kind, channel, len(payload)) + payload + FRAME_END


@lru_cache(maxsize=256)
def _name(text: str) -> bytes:
    """Of a header, an exchange, an event type: there are few."""
    return _short(text)


def _short(text: str) -> bytes:
    encoded = text.encode()
    return bytes((len(encoded),)) + encoded


def _read_short(data: bytes, position: int) -> tuple[str, int]:
    end = position + 1 + data[position]
    return data[position + 1 : end].decode(errors="replace"), end


def _table(headers: Mapping[str, object]) -> bytes:
    fields = b"".join(_field(name, value) for name, value in headers.items())
    return _LONG.pack(len(fields)) + fields


def _field(name: str, value: object) -> bytes:
    match value:
        case str():
            encoded = value.encode()
            return _name(name) + b"S" + _LONG.pack(len(encoded)) + encoded
        case int():
            return _name(name) + b"l" + _SIGNED.pack(value)
        case _:
            raise TypeError(f"{name}: our headers are strings and integers")


def _read_table(data: bytes, position: int) -> tuple[dict[str, object], int]:
    """What others put in (`x-death` is an array of tables) is read by the client library's codec."""
    (size,) = _LONG.unpack_from(data, position)
    position += 4
    end = position + size
    fields: dict[str, object] = {}
    while position < end:
        kind_at = position + 1 + data[position]
        name = data[position + 1 : kind_at].decode(errors="replace")
        kind = data[kind_at]
        position = kind_at + 1
        if kind == _TEXT:
            (length,) = _LONG.unpack_from(data, position)
            position += 4 + length
            fields[name] = data[position - length : position].decode(errors="replace")
        elif kind == _INTEGER:
            (fields[name],) = _SIGNED.unpack_from(data, position)
            position += 8
        else:
            consumed, fields[name] = decode.embedded_value(data[kind_at:end])
            position = kind_at + consumed
    return fields, end
