"""Headers of an AMQP message as bytes, also such as no client library writes."""

import struct

# Flags of the properties that a content header has.
HEADERS, TIMESTAMP, TYPE, MESSAGE_ID = 1 << 13, 1 << 6, 1 << 5, 1 << 7


def table(*fields: bytes) -> bytes:
    content = b"".join(fields)
    return struct.pack(">I", len(content)) + content


def field(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + value


OURS = field(b"x-attempt", b"l" + struct.pack(">q", 3))
