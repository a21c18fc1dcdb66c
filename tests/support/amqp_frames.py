"""AMQP 0-9-1, frame by frame, independent of TCP's segments.

A frame: type (1 byte), channel (2), size of the payload (4), payload, 0xCE. A method frame's payload
begins with the numbers of its class and its method (2 bytes each).
"""

import struct
from dataclasses import dataclass, field

from tests.support.protocol_watch import Direction, Garbled, Piece, Point

PROTOCOL_HEADER = b"AMQP"
PROTOCOL_HEADER_BYTES = 8
FRAME_END = 0xCE
METHOD = 1

_HEAD = struct.Struct("!BHI")
_METHOD_NUMBERS = struct.Struct("!HH")

# basic.publish; basic.ack and basic.nack, which confirm when the broker sends them.
PUBLISH = (60, 40)
CONFIRMS = ((60, 80), (60, 120))


@dataclass(slots=True)
class Frames:
    """One direction of a connection."""

    _rest: bytes = b""

    def feed(self, data: bytes) -> list[bytes]:
        """All complete frames. The client's protocol header counts as one.

        Raises:
            Garbled
        """
        buffer = self._rest + data
        frames = []
        start = 0
        while (end := _end_of_frame(buffer, start)) is not None:
            frames.append(buffer[start:end])
            start = end
        self._rest = buffer[start:]
        return frames


def _end_of_frame(buffer: bytes, start: int) -> int | None:
    """None if the frame is incomplete."""
    if buffer.startswith(PROTOCOL_HEADER[: len(buffer) - start], start):
        end = start + PROTOCOL_HEADER_BYTES
        return end if start < end <= len(buffer) else None
    if len(buffer) - start < _HEAD.size:
        return None
    _, _, size = _HEAD.unpack_from(buffer, start)
    end = start + _HEAD.size + int(size) + 1
    if end > len(buffer):
        return None
    if buffer[end - 1] != FRAME_END:
        raise Garbled("an AMQP frame without its end")
    return end


def method_of(frame: bytes) -> tuple[int, int] | None:
    """Class and method; None for other frames."""
    if frame[0] != METHOD or len(frame) < _HEAD.size + _METHOD_NUMBERS.size:
        return None
    class_number, method_number = _METHOD_NUMBERS.unpack_from(frame, _HEAD.size)
    return class_number, method_number


@dataclass(slots=True)
class AmqpWatch:
    """Sees publishes on their way to the broker, and its confirms (ack or nack) on their way back."""

    _frames: dict[Direction, Frames] = field(
        default_factory=lambda: {direction: Frames() for direction in Direction}
    )

    def feed(self, direction: Direction, data: bytes) -> list[Piece]:
        return [(frame, _point(direction, frame)) for frame in self._frames[direction].feed(data)]


def _point(direction: Direction, frame: bytes) -> Point | None:
    method = method_of(frame)
    if direction is Direction.TO_SERVER and method == PUBLISH:
        return Point.PUBLISH
    if direction is Direction.TO_CLIENT and method in CONFIRMS:
        return Point.CONFIRM
    return None
