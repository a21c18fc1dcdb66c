"""The client library's connection over a socket that we open, whose deliveries and publishes we tap."""

import asyncio
from typing import Any

import aio_pika
from aio_pika.exceptions import ConnectionClosed
from aiormq.abc import AbstractChannel, ExceptionType, TimeoutType
from aiormq.connection import SSLContextProvider, TransportFactory
from aiormq.exceptions import AMQPConnectionError
from yarl import URL

from worker.amqp.tap import ChannelTap, TappedReader, TappedWriter
from worker.observability.resolver import connect

# How long we wait for the broker to answer our close.
CLOSE_TIMEOUT_SECONDS = 2.0


class ClosedByBroker(Exception):
    """The broker closed the connection while it was being opened. The text is its code and message."""


class TappedTransport(TransportFactory):
    """Opens the socket of one connection `within` this many seconds."""

    def __init__(self) -> None:
        self.within: float | None = None
        self._reader: TappedReader | None = None
        self._writer: TappedWriter | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Called once by the client library, with a complete `url`."""
        provider: SSLContextProvider = kwargs["ssl_context_provider"]
        assert url.host is not None, "the client library has looked at it"
        assert url.port is not None, "the client library has filled it in"
        loop = asyncio.get_running_loop()
        context = await provider.get_context() if url.scheme == "amqps" else None
        # One per address that is tried; the last one is connected.
        readers: list[TappedReader] = []

        def protocol_of_attempt() -> asyncio.StreamReaderProtocol:
            readers.append(TappedReader(loop))
            return asyncio.StreamReaderProtocol(readers[-1], loop=loop)

        try:
            transport, protocol = await connect(
                loop.create_connection,
                protocol_of_attempt,
                url.host,
                url.port,
                within=self.within,
                ssl=context,
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        self._reader = reader = readers[-1]
        self._writer = TappedWriter(transport, protocol, reader, loop)
        return reader, self._writer

    def tap(self, channel: AbstractChannel, frame_max: int) -> ChannelTap:
        """Process the messages of an open channel without the client library."""
        assert self._reader is not None, "a channel is open over it"
        assert self._writer is not None, "a channel is open over it"
        tap = ChannelTap(channel.number, self._writer.write_soon, frame_max)
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
        """Close the socket immediately, without sending what is left."""
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
        """Raises as the library does, and ClosedByBroker if the broker closes the connection.

        The library's own timeout waits until a TLS peer has answered its close, or for 30 s more.
        """
        self.tapped.within = timeout if isinstance(timeout, int | float) else None
        opening = asyncio.ensure_future(super().connect())
        # Nothing waits for an error that comes after the timeout.
        opening.add_done_callback(lambda opened: opened.cancelled() or opened.exception())
        try:
            done, _ = await asyncio.wait([opening], timeout=timeout)
            if not done:
                raise TimeoutError
            opening.result()
        except BaseException as error:
            # A cancellation may come at the moment in which the connection is open.
            opening.cancel()
            self.tapped.abort()
            if not self._closed.done():
                # Otherwise the library starts to close it when it is garbage-collected.
                self._closed.set_result(True)
            if isinstance(error, Exception) and self.tapped.closed_with is not None:
                raise ClosedByBroker(self.tapped.closed_with) from error
            raise

    async def close(self, exc: ExceptionType | None = ConnectionClosed) -> None:
        """Close within `CLOSE_TIMEOUT_SECONDS`, then drop the connection. Never raises.

        The library's own close waits for a callback. After a cancellation, or a second one, that is never
        called, and the close never ends.
        """
        underlay, self.transport = self.transport, None
        if underlay is None:
            return
        closing = asyncio.ensure_future(underlay.connection.close(exc))
        try:
            # The error of a lost connection is reported elsewhere.
            await asyncio.wait([closing], timeout=CLOSE_TIMEOUT_SECONDS)
        finally:
            closing.cancel()
            self.tapped.abort()
            if not self._closed.done():
                # Otherwise the library starts to close it again when it is garbage-collected.
                self._closed.set_result(True)
