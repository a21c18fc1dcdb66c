"""The AMQP 0-9-1 frames of a message: written for a publish, read for a delivery. Pure.

The client library's own codec makes an object of each frame and of each value in it, and raises for what
a sender may put into a message: a timestamp out of range, text that is not UTF-8, deep nesting. This one
never raises for what a message holds.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from struct import Struct
from struct import error as struct_error
from typing import NamedTuple

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME = Struct(">BHI")
FRAME_END = b"\xce"
OVERHEAD = FRAME.size + len(FRAME_END)
A_HEARTBEAT = FRAME.pack(HEARTBEAT, 0, 0) + FRAME_END

DELIVER = b"\x00\x3c\x00\x3c"
RETURN = b"\x00\x3c\x00\x32"
ACK = b"\x00\x3c\x00\x50"
NACK = b"\x00\x3c\x00\x78"
GET_OK = b"\x00\x3c\x00\x47"
CLOSE = b"\x00\x0a\x00\x32"
_PUBLISH = b"\x00\x3c\x00\x28\x00\x00"

_LONG_LONG = Struct(">Q")
_LONG = Struct(">I")
_SIGNED = Struct(">q")
_CONTENT_HEADER = Struct(">HHQH")

# Kinds of values in a table of headers (source: rabbitmq.com/amqp-0-9-1-errata, field types).
_TEXT = ord("S")
_INTEGER = ord("l")
_TABLE = ord("F")
_ARRAY = ord("A")
_BYTES = ord("x")
_DECIMAL = ord("D")
_TIMESTAMP = ord("T")
_VOID = (ord("V"), 0)
_NUMBERS = {
    ord(kind): Struct(f">{code}")
    for kind, code in {
        "t": "?", "b": "b", "B": "B", "s": "h", "u": "H", "I": "i", "i": "I", "L": "q", "f": "f", "d": "d"
    }.items()
}  # fmt: skip
_DECIMAL_PARTS = Struct(">BI")

# `x-death`, the broker's own, is an array of tables with an array in each.
_DEEPEST = 8

# Far more than our messages have. A copy of such headers, with our additions, fits in a frame of 128 KiB.
LARGEST_PROPERTIES = 32_768

_BASIC = 60
_MANDATORY = b"\x01"
_OPTIONAL = b"\x00"
_PERSISTENT = b"\x02"
_APPLICATION = b"\x09stockhook"

JSON = "application/json"

# Our messages have content_type, headers, delivery_mode, message_id, type and app_id.
_OUR_PROPERTIES = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7 | 1 << 5 | 1 << 3

# The protocol's properties of a message in their order, from the highest flag down.
_PROPERTIES = (
    "content_type", "content_encoding", "headers", "delivery_mode", "priority", "correlation_id", "reply_to",
    "expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id",
)  # fmt: skip
_SIZES = {"delivery_mode": 1, "priority": 1, "timestamp": 8}


class Properties(NamedTuple):
    """The content header of a message. `size` is the size of the body in bytes."""

    size: int
    message_id: str
    type: str
    headers: Mapping[str, object]


class Outline(NamedTuple):
    """The fields of a delivery's method frame."""

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
    """The frames of a persistent publish. A `mandatory` message is returned if no queue accepts it.

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
    """Read a delivery's method frame, whose payload begins at `position`."""
    tag_at = position + 5
    tag_end = tag_at + data[tag_at - 1]
    (delivery_tag,) = _LONG_LONG.unpack_from(data, tag_end)
    return Outline(data[tag_at:tag_end].decode(errors="replace"), delivery_tag, bool(data[tag_end + 8] & 1))


def read_confirm(data: bytes, position: int) -> tuple[int, bool]:
    """The delivery tag of an ack or nack from the broker, and whether it includes all earlier tags."""
    (delivery_tag,) = _LONG_LONG.unpack_from(data, position + 4)
    return delivery_tag, bool(data[position + 12] & 1)


def ack_frame(channel: int, delivery_tag: int, *, is_multiple: bool) -> bytes:
    """The ack of a delivery; `is_multiple` includes all earlier ones."""
    return _frame(METHOD, channel, ACK + _LONG_LONG.pack(delivery_tag) + bytes([is_multiple]))


def read_close(data: bytes, position: int) -> str:
    """Code and text of the method frame that closes a connection: `530 NOT_ALLOWED - …`."""
    code = int.from_bytes(data[position + 4 : position + 6], "big")
    length = data[position + 6]
    return f"{code} {data[position + 7 : position + 7 + length].decode(errors='replace')}"


def get_ok_frame(channel: int, data: bytes, position: int) -> bytes:
    """The broker's answer to a get, without exchange and routing key, which may not be UTF-8."""
    return _frame(METHOD, channel, data[position : position + 13] + b"\0\0" + _LONG.pack(0))


def bare_header_frame(channel: int, body_size: int) -> bytes:
    """A content header without properties."""
    return _frame(HEADER, channel, _CONTENT_HEADER.pack(_BASIC, 0, body_size, 0))


def read_properties(data: bytes, position: int, size: int) -> Properties:
    """Read a content header frame, whose payload of `size` bytes begins at `position`.

    Never raises because of a message: if its properties cannot be read, it has none.
    """
    _, _, body_size, flags = _CONTENT_HEADER.unpack_from(data, position)
    if size <= LARGEST_PROPERTIES:
        with suppress(ValueError, IndexError, struct_error):
            return _read_properties(data[position : position + size], body_size, flags)
    return Properties(body_size, "", "", {})


def _read_properties(payload: bytes, body_size: int, flags: int) -> Properties:
    """Raises: ValueError, IndexError, struct_error."""
    position = _CONTENT_HEADER.size
    headers: Mapping[str, object] = {}
    message_id = message_type = ""
    for name in _names(flags):
        match name:
            case "headers":
                headers, position = _read_table(payload, position, 0)
            case "message_id":
                message_id, position = _read_short(payload, position)
            case "type":
                message_type, position = _read_short(payload, position)
            case _:
                position += _SIZES.get(name) or 1 + payload[position]
    if position > len(payload):
        raise ValueError("it is cut off")
    return Properties(body_size, message_id, message_type, headers)


@lru_cache(maxsize=256)
def _names(flags: int) -> tuple[str, ...]:
    if flags & 0b11:
        raise ValueError("the protocol has no such properties")
    return tuple(name for bit, name in zip(range(15, 1, -1), _PROPERTIES, strict=True) if flags >> bit & 1)


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return FRAME.pack(kind, channel, len(payload)) + payload + FRAME_END


@lru_cache(maxsize=256)
def _name(text: str) -> bytes:
    """A cached name: there are few headers, exchanges and event types."""
    return _short(text)


def _short(text: str) -> bytes:
    encoded = text.encode()
    return bytes((len(encoded),)) + encoded


def _read_short(data: bytes, position: int) -> tuple[str, int]:
    """Drops bytes that are not UTF-8: replacements could make the text too long to be written again."""
    end = position + 1 + data[position]
    return data[position + 1 : end].decode(errors="ignore"), end


def _table(headers: Mapping[str, object]) -> bytes:
    fields = bytearray()
    for name, value in headers.items():
        fields += _name(name)
        if isinstance(value, str):
            encoded = value.encode()
            fields += b"S" + _LONG.pack(len(encoded)) + encoded
        elif isinstance(value, int):
            fields += b"l" + _SIGNED.pack(value)
        else:
            raise TypeError(f"{name}: our headers are strings and integers")
    return _LONG.pack(len(fields)) + fields


def _read_table(data: bytes, position: int, depth: int) -> tuple[dict[str, object], int]:
    """Raises: ValueError, IndexError, struct_error."""
    position, end = _extent(data, position, depth)
    fields: dict[str, object] = {}
    while position < end:
        name, position = _read_short(data, position)
        if data[position] == _TEXT:
            # Nearly every header. One beyond the end of the table is refused below.
            (size,) = _LONG.unpack_from(data, position + 1)
            begin, position = position + 5, position + 5 + size
            fields[name] = data[begin:position].decode(errors="replace")
        else:
            fields[name], position = _read_value(data, position, depth)
    if position > end:
        raise ValueError("it is cut off")
    return fields, end


def _read_array(data: bytes, position: int, depth: int) -> tuple[list[object], int]:
    """Raises as `_read_table` does."""
    position, end = _extent(data, position, depth)
    values: list[object] = []
    while position < end:
        value, position = _read_value(data, position, depth)
        values.append(value)
    if position > end:
        raise ValueError("it is cut off")
    return values, end


def _extent(data: bytes, position: int, depth: int) -> tuple[int, int]:
    """Begin and end of a value that is preceded by its length."""
    (size,) = _LONG.unpack_from(data, position)
    begin = position + _LONG.size
    if begin + size > len(data) or depth > _DEEPEST:
        raise ValueError("it is cut off, or nested too deeply")
    return begin, begin + size


def _read_value(data: bytes, position: int, depth: int) -> tuple[object, int]:
    """Raises as `_read_table` does."""
    kind = data[position]
    position += 1
    if kind == _TEXT:
        begin, end = _extent(data, position, depth)
        return data[begin:end].decode(errors="replace"), end
    if kind == _INTEGER:
        (number,) = _SIGNED.unpack_from(data, position)
        return number, position + 8
    if kind == _TABLE:
        return _read_table(data, position, depth + 1)
    if kind == _ARRAY:
        return _read_array(data, position, depth + 1)
    if kind == _BYTES:
        begin, end = _extent(data, position, depth)
        return data[begin:end], end
    if kind == _DECIMAL:
        places, digits = _DECIMAL_PARTS.unpack_from(data, position)
        return Decimal(digits).scaleb(-places), position + _DECIMAL_PARTS.size
    if kind == _TIMESTAMP:
        (seconds,) = _LONG_LONG.unpack_from(data, position)
        return _instant(seconds), position + 8
    if kind in _VOID:
        return None, position
    if kind in _NUMBERS:
        (number,) = _NUMBERS[kind].unpack_from(data, position)
        return number, position + _NUMBERS[kind].size
    raise ValueError("a value of an unknown kind")


def _instant(seconds: int) -> object:
    """A timestamp; as text if it is out of range."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return str(seconds)
