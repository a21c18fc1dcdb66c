"""From a TCP connection to one that speaks TLS: counted from its first moment, and over within seconds."""

import asyncio
from typing import cast

from worker.ingest.connection_limits import Reason
from worker.ingest.http_connection import BODY_BUFFER_BYTES, LINGER_SECONDS, Connection, Shared
from worker.ingest.tls import Certificates

HANDSHAKE_SECONDS = 5.0


class Handshake(asyncio.Protocol):
    """Stands before a connection until both sides have agreed on keys.

    asyncio's servers announce a TLS connection only after its handshake: until then it would be in no limit.
    """

    def __init__(self, shared: Shared, certificates: Certificates) -> None:
        self._shared = shared
        self._certificates = certificates
        self._connection = Connection(shared)
        self._received = b""
        self._is_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no asyncio class.
        raw = cast(asyncio.Transport, transport)
        if self._connection.is_admitted(raw):
            # Its first bytes are for the handshake.
            raw.pause_reading()
            task = asyncio.get_running_loop().create_task(self._shake_hands(raw))
            self._shared.answering.add(task)
            task.add_done_callback(self._shared.answering.discard)

    def data_received(self, data: bytes) -> None:
        """The sender may send its request at once: that arrives before we know of the handshake's end."""
        self._received += data

    def connection_lost(self, error: Exception | None) -> None:
        if not self._is_over:
            self._is_over = True
            self._connection.connection_lost(error)

    async def _shake_hands(self, raw: asyncio.Transport) -> None:
        try:
            encrypted = await asyncio.get_running_loop().start_tls(
                raw,
                self,
                self._certificates.context,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=LINGER_SECONDS,
            )
        except OSError:
            encrypted = None
        # To uvloop, a sender that hangs up meanwhile is no error.
        if encrypted is None or encrypted.is_closing():
            if self._connection in self._shared.open:
                self._shared.note_refused(Reason.HANDSHAKE, self._connection.address)
            raw.abort()
            self.connection_lost(None)
            return
        self._is_over = True
        encrypted.set_protocol(self._connection)
        # Of what arrives while reading is paused.
        encrypted.set_read_buffer_limits(high=BODY_BUFFER_BYTES)  # type: ignore[attr-defined]  # of uvloop
        if self._certificates.requires_client_certificates:
            self._connection.authenticate()
        self._connection.begin(encrypted)
        if self._received:
            self._connection.data_received(self._received)
