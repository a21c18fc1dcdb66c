"""From a TCP connection to one that speaks TLS: counted from its first moment, and over within seconds."""

import asyncio
import os
import socket
from contextlib import suppress
from typing import cast

from worker.ingest.connection_limits import Reason
from worker.ingest.http_connection import BODY_BUFFER_BYTES, LINGER_SECONDS, Connection, Shared
from worker.ingest.tls import Certificates

HANDSHAKE_SECONDS = 5.0


class Handshake(asyncio.Protocol):
    """Stands before a connection until both sides have agreed on keys.

    asyncio's servers announce a TLS connection only after its handshake: until then it would be in no limit.
    So each connection is accepted as plain TCP, counted, and then given to the loop once more, for TLS.
    `start_tls` would take less, but uvloop starts to read after `connection_made`, whatever that does: a
    ClientHello that arrives before TLS is ready is lost, and the handshake hangs.
    """

    def __init__(self, shared: Shared, certificates: Certificates) -> None:
        self._shared = shared
        self._certificates = certificates
        self._connection = Connection(shared)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no asyncio class.
        raw = cast(asyncio.Transport, transport)
        if not self._connection.is_admitted(raw):
            return
        accepted = socket.socket(fileno=os.dup(raw.get_extra_info("socket").fileno()))
        accepted.setblocking(False)
        # The other descriptor keeps the connection.
        raw.abort()
        encrypted = _Encrypted(self._connection, accepted)
        self._connection.abort_handshake = encrypted.abort
        task = asyncio.get_running_loop().create_task(self._shake_hands(encrypted, accepted))
        self._shared.answering.add(task)
        task.add_done_callback(self._shared.answering.discard)

    async def _shake_hands(self, encrypted: "_Encrypted", accepted: socket.socket) -> None:
        transport: asyncio.Transport | None = None
        with suppress(OSError):
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: encrypted,
                accepted,
                ssl=self._certificates.context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=LINGER_SECONDS,
            )
        # To uvloop, a sender that hangs up meanwhile is no error.
        if transport is None or transport.is_closing():
            if self._connection in self._shared.open:
                self._shared.note_refused(Reason.HANDSHAKE, self._connection.address)
            accepted.close()
            encrypted.end()
            return
        if self._certificates.requires_client_certificates:
            self._connection.authenticate()
        encrypted.pass_on(transport)


class _Encrypted(asyncio.Protocol):
    """Keeps what arrives with the end of the handshake, until the connection takes over."""

    def __init__(self, connection: Connection, accepted: socket.socket) -> None:
        self._connection = connection
        self._accepted = accepted
        self._received = b""
        self._is_over = False

    def data_received(self, data: bytes) -> None:
        self._received += data

    def connection_lost(self, error: Exception | None) -> None:
        self.end()

    def end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._connection.connection_lost(None)

    def pass_on(self, transport: asyncio.Transport) -> None:
        self._is_over = True
        transport.set_protocol(self._connection)
        # Of what arrives while reading is paused.
        transport.set_read_buffer_limits(high=BODY_BUFFER_BYTES)  # type: ignore[attr-defined]  # of uvloop
        self._connection.begin(transport)
        if self._received:
            self._connection.data_received(self._received)

    def abort(self) -> None:
        """End the handshake: the loop has the connection, and no transport of it is known yet."""
        with suppress(OSError):
            self._accepted.shutdown(socket.SHUT_RDWR)
