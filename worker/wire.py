"""Deliveries and publishes past the client library: read off the socket before it, written beside it.

It makes several objects and tasks of every message, which takes longer than all that we do with one.
Connections, channels, declarations and whatever else is rare stay its business: frames that are no part
of a message on a tapped channel pass through to it untouched.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, SupportsIndex
from uuid import uuid4

import aio_pika
from aio_pika.exceptions import ConnectionClosed
from aiormq.abc import AbstractChannel, ExceptionType, TimeoutType
from aiormq.connection import SSLContextProvider, TransportFactory
from aiormq.exceptions import AMQPConnectionError
from pamqp.header import ContentHeader
from yarl import URL

from worker.deadlines import Deadlines
from worker.failure import describe
from worker.frames import (
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
    bare_header_frame,
    get_ok_frame,
    publish_frames,
    read_close,
    read_confirm,
    read_outline,
    read_properties,
)
from worker.resolver import connect

# The client library calls a connection dead over which it hears nothing, and the broker sends no
# heartbeat over one that is busy: it is told as often that we do hear something.
HEARTBEAT_SECONDS = 1.0

# How often it is looked whether a publish has waited too long for its confirm.
LOOK_SECONDS = 0.1

# More than any broker agrees to send in one frame: what claims to be longer is no AMQP.
LONGEST_FRAME = 1 << 24

# How long an address of a name may take to accept a connection before the next one is tried.
ADDRESS_SECONDS = 1.0

# So long we wait for the broker to answer our goodbye.
CLOSE_TIMEOUT_SECONDS = 2.0


class Delivery(NamedTuple):
    """A message as it was delivered to a consumer."""

    tag: int
    type: str
    headers: Mapping[str, object]
    body: bytes
    redelivered: bool
    message_id: str = ""


class Returned(Exception):
    """The broker had no queue for it."""


class Refused(Exception):
    """The broker did not take it (`basic.nack`)."""


class ClosedByBroker(Exception):
    """The broker closed the connection while it was being opened. The text is its code and message."""


class Lost(Exception):
    """The channel closed before the broker said what became of it."""


@dataclass(slots=True)
class _Content:
    """A message whose frames are arriving. `consumer` is None for one that the broker returns."""

    consumer: Callable[[Delivery], None] | None
    tag: int
    redelivered: bool
    properties: Properties | None = None
    pieces: list[bytes] = field(default_factory=list)
    missing: int = 0


class ChannelTap:
    """The messages of one channel in confirm mode, both ways. All publishes of it go through here."""

    def __init__(self, number: int, write: Callable[[bytes], None], frame_max: int) -> None:
        self._number = number
        self._write = write
        self._frame_max = frame_max
        self._consumers: dict[str, Callable[[Delivery], None]] = {}
        self._content: _Content | None = None
        self._published = 0
        self._unconfirmed: dict[int, asyncio.Future[None]] = {}
        self._deadlines = Deadlines(LOOK_SECONDS)
        self._prefix = uuid4().hex

    def consume(self, consumer_tag: str, on_delivery: Callable[[Delivery], None]) -> None:
        """Hand over what is delivered under this tag: to be called before the broker is asked."""
        self._consumers[consumer_tag] = on_delivery

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
            Returned
            Refused
            Lost
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
        except RuntimeError:
            # uvloop raises it for a connection that is closed; the client library notices a little later.
            confirm.set_exception(Lost())
            return confirm
        self._published = tag
        self._unconfirmed[tag] = confirm
        self._deadlines.watch(tag, deadline, lambda: self._settle(tag, TimeoutError()))
        return confirm

    def close(self) -> None:
        """Nothing more will be heard of what is not confirmed."""
        for tag in list(self._unconfirmed):
            self._settle(tag, Lost())

    def take(self, kind: int, data: bytes, position: int, size: int) -> bytes | None:
        """Accept a frame, if it is a message's or a confirm; what the client library gets in its place.

        None if it gets the frame as it is.
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
        """The header of a message that the client library asked for, if it could not read this one."""
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
            self._confirm(*read_confirm(data, position), Refused())
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
        content.consumer(
            Delivery(
                content.tag,
                properties.type,
                properties.headers,
                body,
                content.redelivered,
                properties.message_id,
            )
        )

    def _returned(self, message_id: str) -> None:
        """An unreadable return may belong to any publish, so none of them counts as confirmed."""
        prefix, _, number = message_id.rpartition(".")
        if prefix == self._prefix and number.isdecimal():
            self._settle(int(number), Returned())
        else:
            self.close()

    def _confirm(self, tag: int, is_multiple: bool, error: Exception | None) -> None:
        if not is_multiple:
            self._settle(tag, error)
            return
        for earlier in [waiting for waiting in self._unconfirmed if waiting <= tag]:
            self._settle(earlier, error)

    def _settle(self, tag: int, error: Exception | None) -> None:
        """A message that was returned is confirmed as well, afterwards: the first word stands."""
        self._deadlines.forget(tag)
        confirm = self._unconfirmed.pop(tag, None)
        if confirm is None or confirm.done():
            return
        if error is None:
            confirm.set_result(None)
        else:
            confirm.set_exception(error)


class TappedReader(asyncio.StreamReader):
    """A stream from which the frames of tapped channels are taken out before anybody reads it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._clock = loop.time
        self._taps: dict[int, ChannelTap] = {}
        self._begun = b""
        self._told_at = 0.0
        self.is_over = False
        self.closed_with: str | None = None

    def tap(self, channel: int, tap: ChannelTap) -> None:
        self._taps[channel] = tap

    def untap(self, channel: int) -> None:
        self._taps.pop(channel, None)

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        assert isinstance(data, bytes | bytearray), "so event loops read"
        data = self._begun + data if self._begun else bytes(data)
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
        self._begun = data[position:]
        if passed:
            self._say_it_lives()

    def feed_eof(self) -> None:
        self.is_over = True
        super().feed_eof()

    def set_exception(self, exc: BaseException) -> None:
        """Called when the connection is lost; the client library handles only errors of sockets."""
        self.is_over = True
        if not isinstance(exc, OSError):
            error = ConnectionError(describe(exc))
            error.__cause__ = exc
            exc = error
        super().set_exception(exc)

    def _pass_on(self, data: bytes) -> None:
        if data:
            super().feed_data(data)

    def _say_it_lives(self) -> None:
        now = self._clock()
        if now - self._told_at > HEARTBEAT_SECONDS:
            self._told_at = now
            super().feed_data(A_HEARTBEAT)


class TappedTransport(TransportFactory):
    """Opens the socket of one connection, for the client library and for us."""

    def __init__(self) -> None:
        self._reader: TappedReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Called by the client library, once; `url` is one that it has completed."""
        provider: SSLContextProvider = kwargs["ssl_context_provider"]
        assert url.host is not None, "the client library has looked at it"
        assert url.port is not None, "the client library has filled it in"
        loop = asyncio.get_running_loop()
        reader = TappedReader(loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        context = await provider.get_context() if url.scheme == "amqps" else None
        try:
            transport, _ = await connect(
                loop.create_connection,
                lambda: protocol,
                url.host,
                url.port,
                address_seconds=ADDRESS_SECONDS,
                ssl=context,
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        self._reader = reader
        self._writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return reader, self._writer

    def tap(self, channel: AbstractChannel, frame_max: int) -> ChannelTap:
        """Take the messages of an open channel past the client library."""
        assert self._reader is not None, "a channel is open over it"
        assert self._writer is not None, "a channel is open over it"
        tap = ChannelTap(channel.number, self._writer.write, frame_max)
        self._reader.tap(channel.number, tap)
        channel.closing.add_done_callback(lambda _: self._untap(channel.number, tap))
        return tap

    @property
    def closed_with(self) -> str | None:
        """The broker's code and text for closing the connection, if it did."""
        return None if self._reader is None else self._reader.closed_with

    @property
    def is_lost(self) -> bool:
        """Whether the broker ended the connection, or the network did."""
        reader = self._reader
        return reader is not None and (reader.is_over or reader.closed_with is not None)

    def abort(self) -> None:
        """Let go of the socket, whatever has not been sent yet."""
        if self._writer is not None:
            self._writer.transport.abort()

    def _untap(self, number: int, tap: ChannelTap) -> None:
        assert self._reader is not None, "it was tapped"
        self._reader.untap(number)
        tap.close()


class TappedConnection(aio_pika.Connection):
    """The client library's connection over a transport of ours."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # handed through as they come
        self.tapped = TappedTransport()
        self.kwargs["transport_factory"] = self.tapped

    async def connect(self, timeout: TimeoutType = None) -> None:  # noqa: ASYNC109  # as the library has it
        """Raises as the library does, and ClosedByBroker, where the library only finds a frame unexpected.

        The library's own timeout lasts until a TLS peer has answered its goodbye, or for 30 s more.
        """
        opening = asyncio.ensure_future(super().connect())
        # An error that comes after the timeout is nobody's.
        opening.add_done_callback(lambda opened: opened.cancelled() or opened.exception())
        try:
            done, _ = await asyncio.wait([opening], timeout=timeout)
            if not done:
                raise TimeoutError
            opening.result()
        except Exception as error:
            if self.tapped.closed_with is None:
                raise
            raise ClosedByBroker(self.tapped.closed_with) from error
        finally:
            if not opening.done():
                self.tapped.abort()
                opening.cancel()
            if self.transport is None and not self._closed.done():
                # There is nothing to close, or the library would begin to when it is forgotten.
                self._closed.set_result(True)

    async def close(self, exc: ExceptionType | None = ConnectionClosed) -> None:
        """Say goodbye for as long as it takes or `CLOSE_TIMEOUT_SECONDS`, and let go; never raises.

        The library's own close waits for ever for its callback where a cancellation, or a second one, kept
        that from being called.
        """
        underlay, self.transport = self.transport, None
        if underlay is None:
            return
        closing = asyncio.ensure_future(underlay.connection.close(exc))
        try:
            # What went wrong with a connection that was lost is told elsewhere.
            await asyncio.wait([closing], timeout=CLOSE_TIMEOUT_SECONDS)
        finally:
            closing.cancel()
            self.tapped.abort()
            if not self._closed.done():
                # Or the library begins to close it once more when it is forgotten.
                self._closed.set_result(True)
