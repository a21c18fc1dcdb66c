"""Deliveries and publishes without the client library: read from the socket before it, written beside it.

The library makes several objects and tasks for each message, which takes longer than all our own work on it.
Connections, channels, declarations and everything else that is rare are left to the library: frames that are
not part of a message on a tapped channel pass through unchanged.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, SupportsIndex
from uuid import uuid4

from pamqp.header import ContentHeader

from worker.amqp.codec import (
    A_HEARTBEAT,
    ACK,
    BODY,
    CLOSE,
    DELIVER,
    FRAME,
    GET_OK,
    HEADER,
    JSON,
    METHOD,
    NACK,
    OVERHEAD,
    RETURN,
    Properties,
    ack_frame,
    bare_header_frame,
    get_ok_frame,
    publish_frames,
    read_close,
    read_confirm,
    read_outline,
    read_properties,
)
from worker.amqp.timeouts import TimeoutGroup
from worker.observability.errors import safe_summary

# The client library considers a connection dead if it receives nothing, and the broker sends no heartbeats
# over a busy connection. So the library is given a heartbeat this often while data arrives.
HEARTBEAT_SECONDS = 1.0

# How often we check whether a publish has waited too long for its confirm.
CHECK_SECONDS = 0.1

# More than any broker agrees to send in one frame: a longer one is not AMQP.
LONGEST_FRAME = 1 << 24


class Delivery(NamedTuple):
    tag: int
    type: str
    headers: Mapping[str, object]
    body: bytes
    redelivered: bool
    message_id: str = ""
    queue: str = ""


class MessageReturned(Exception):
    """No queue accepted the message."""


class Nacked(Exception):
    """The broker did not accept the message (`basic.nack`)."""


class ChannelLost(Exception):
    """The channel closed before an answer."""


class _Consumer(NamedTuple):
    queue: str
    on_delivery: Callable[[Delivery], None]


@dataclass(slots=True)
class _Content:
    """A message whose frames are arriving. `consumer` is None for one that the broker returns."""

    consumer: _Consumer | None
    tag: int
    redelivered: bool
    properties: Properties | None = None
    pieces: list[bytes] = field(default_factory=list)
    missing: int = 0


class ChannelTap:
    """The messages of one channel in confirm mode, in both directions. All its publishes go through here."""

    def __init__(self, number: int, write: Callable[[bytes], None], frame_max: int) -> None:
        self._number = number
        self._write = write
        self._frame_max = frame_max
        self._consumers: dict[str, _Consumer] = {}
        self._content: _Content | None = None
        self._published = 0
        self._unconfirmed: dict[int, asyncio.Future[None]] = {}
        self._deadlines = TimeoutGroup(CHECK_SECONDS)
        self._prefix = uuid4().hex

    def consume(self, consumer_tag: str, queue: str, on_delivery: Callable[[Delivery], None]) -> None:
        """Pass the deliveries with this tag to a callback. Call it before the consume."""
        self._consumers[consumer_tag] = _Consumer(queue, on_delivery)

    def publish(
        self,
        exchange: str,
        routing_key: str,
        message_type: str,
        headers: Mapping[str, object],
        body: bytes,
        deadline: float,
        content_type: str = JSON,
        *,
        mandatory: bool = True,
    ) -> asyncio.Future[None]:
        """Write a publish; the result is its confirm, within `deadline` seconds (to a tenth).

        The future raises:
            MessageReturned
            Nacked
            ChannelLost
            TimeoutError: It may have arrived, or still be on its way.
        """
        tag = self._published + 1
        properties = Properties(len(body), f"{self._prefix}.{tag}", message_type, headers)
        frames = publish_frames(
            self._number,
            exchange,
            routing_key,
            properties,
            body,
            self._frame_max,
            content_type,
            mandatory=mandatory,
        )
        confirm = asyncio.get_running_loop().create_future()
        try:
            self._write(frames)
        except ConnectionError:
            # The client library notices a little later.
            confirm.set_exception(ChannelLost())
            return confirm
        self._published = tag
        self._unconfirmed[tag] = confirm
        self._deadlines.watch(tag, deadline, lambda: self._settle(tag, TimeoutError()))
        return confirm

    def ack(self, tag: int, *, is_multiple: bool) -> None:
        """Write an ack of a delivery, and of all earlier ones if it `is_multiple`.

        Raises:
            ChannelLost
        """
        try:
            self._write(ack_frame(self._number, tag, is_multiple=is_multiple))
        except ConnectionError as error:
            raise ChannelLost from error

    def close(self) -> None:
        """Fail all unconfirmed publishes: no confirm will arrive."""
        for tag in list(self._unconfirmed):
            self._settle(tag, ChannelLost())

    def take(self, kind: int, data: bytes, position: int, size: int) -> bytes | None:
        """Process a frame of a message or a confirm, and return what the client library receives instead.

        None if the library receives the frame unchanged.
        """
        if kind == METHOD:
            return self._take_method(data, position)
        content = self._content
        if content is None:
            return self._readable(data, position, size) if kind == HEADER else None
        if kind == HEADER:
            content.properties = read_properties(data, position, size)
            content.missing = content.properties.size
        elif kind == BODY:
            content.pieces.append(data[position : position + size])
            content.missing -= size
        if content.missing <= 0 and content.properties is not None:
            self._content = None
            self._finish(content, content.properties)
        return b""

    def _readable(self, data: bytes, position: int, size: int) -> bytes | None:
        """The header of a message that the client library requested, if it could not read this one."""
        try:
            ContentHeader().unmarshal(data[position : position + size])
        except Exception:
            # Its codec raises arbitrary errors for unexpected values.
            return bare_header_frame(self._number, read_properties(data, position, size).size)
        return None

    def _take_method(self, data: bytes, position: int) -> bytes | None:
        method = data[position : position + 4]
        if method == DELIVER:
            consumer_tag, tag, redelivered = read_outline(data, position)
            consumer = self._consumers.get(consumer_tag)
            if consumer is None:
                return None
            self._content = _Content(consumer, tag, redelivered)
        elif method == ACK:
            self._confirm(*read_confirm(data, position), None)
        elif method == NACK:
            self._confirm(*read_confirm(data, position), Nacked())
        elif method == RETURN:
            self._content = _Content(None, 0, False)
        elif method == GET_OK:
            return get_ok_frame(self._number, data, position)
        else:
            return None
        return b""

    def _finish(self, content: _Content, properties: Properties) -> None:
        if content.consumer is None:
            self._returned(properties.message_id)
            return
        body = content.pieces[0] if len(content.pieces) == 1 else b"".join(content.pieces)
        content.consumer.on_delivery(
            Delivery(
                content.tag,
                properties.type,
                properties.headers,
                body,
                content.redelivered,
                properties.message_id,
                content.consumer.queue,
            )
        )

    def _returned(self, message_id: str) -> None:
        """An unreadable return may belong to any publish, so none of them counts as confirmed."""
        prefix, _, number = message_id.rpartition(".")
        if prefix == self._prefix and number.isdecimal():
            self._settle(int(number), MessageReturned())
        else:
            self.close()

    def _confirm(self, tag: int, is_multiple: bool, error: Exception | None) -> None:
        if not is_multiple:
            self._settle(tag, error)
            return
        for earlier in [waiting for waiting in self._unconfirmed if waiting <= tag]:
            self._settle(earlier, error)

    def _settle(self, tag: int, error: Exception | None) -> None:
        """The first result stands: a returned message is also confirmed, afterwards."""
        self._deadlines.forget(tag)
        confirm = self._unconfirmed.pop(tag, None)
        if confirm is None or confirm.done():
            return
        if error is None:
            confirm.set_result(None)
        else:
            confirm.set_exception(error)


class TappedReader(asyncio.StreamReader):
    """A stream from which the frames of tapped channels are removed before the client library reads it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._clock = loop.time
        self._taps: dict[int, ChannelTap] = {}
        self._incomplete = b""
        self._heartbeat_at = 0.0
        self.is_over = False
        self.closed_with: str | None = None

    def tap(self, channel: int, tap: ChannelTap) -> None:
        self._taps[channel] = tap

    def untap(self, channel: int) -> None:
        self._taps.pop(channel, None)

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        assert isinstance(data, bytes | bytearray), "so event loops read"
        data = self._incomplete + data if self._incomplete else bytes(data)
        length = len(data)
        position = passed = 0
        while length - position >= OVERHEAD:
            kind, channel, size = FRAME.unpack_from(data, position)
            end = position + size + OVERHEAD
            if size > LONGEST_FRAME:
                end = length
            if end > length:
                break
            tap = self._taps.get(channel)
            if tap is not None:
                instead = tap.take(kind, data, position + FRAME.size, size)
                if instead is not None:
                    self._pass_on(data[passed:position])
                    self._pass_on(instead)
                    passed = end
            elif kind == METHOD and data.startswith(CLOSE, position + FRAME.size):
                self.closed_with = read_close(data, position + FRAME.size)
            position = end
        self._pass_on(data[passed:position])
        self._incomplete = data[position:]
        if passed:
            self._feed_heartbeat()

    def feed_eof(self) -> None:
        self.is_over = True
        super().feed_eof()

    def set_exception(self, exc: BaseException) -> None:
        """Called when the connection is lost; the client library handles only errors of sockets."""
        self.is_over = True
        if not isinstance(exc, OSError):
            error = ConnectionError(safe_summary(exc))
            error.__cause__ = exc
            exc = error
        super().set_exception(exc)

    def _pass_on(self, data: bytes) -> None:
        if data:
            super().feed_data(data)

    def _feed_heartbeat(self) -> None:
        now = self._clock()
        if now - self._heartbeat_at > HEARTBEAT_SECONDS:
            self._heartbeat_at = now
            super().feed_data(A_HEARTBEAT)


class TappedWriter(asyncio.StreamWriter):
    """A stream on which messages are written together. The order in which bytes were handed over remains.

    Ten messages in one packet take both us and the broker less time than ten packets.
    """

    _waiting: list[bytes] | None = None

    def write_soon(self, frames: bytes) -> None:
        """Write frames after the callbacks that the event loop is about to call.

        Raises:
            ConnectionError: The connection is closed.
        """
        if self.transport.is_closing():
            raise ConnectionError("the connection is closed")
        if self._waiting is None:
            self._waiting = []
            asyncio.get_running_loop().call_soon(self._write_waiting)
        self._waiting.append(frames)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._write_waiting()
        super().write(data)

    def _write_waiting(self) -> None:
        waiting, self._waiting = self._waiting, None
        # uvloop raises for a closed connection. Its publishes fail when the client library notices the end.
        if waiting is not None and not self.transport.is_closing():
            super().write(b"".join(waiting))
