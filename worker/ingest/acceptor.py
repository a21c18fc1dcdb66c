"""Accepts connections from the listening sockets, and counts each from its beginning.

asyncio's own servers report a TLS connection only after its handshake, so that no limit would apply until
then; and they build a whole connection before it can be refused. Here, a refusal only closes a socket.
"""

import asyncio
import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from worker.ingest.connection_limits import Reason
from worker.ingest.http_connection import LINGER_SECONDS, Connection, Shared
from worker.ingest.tls import Certificates

log = structlog.get_logger(__name__)

BACKLOG = 1024
HANDSHAKE_SECONDS = 5.0

# Connections accepted in one iteration of the event loop, so that a flood delays requests only briefly.
MOST_ACCEPTED = 8

# The maximum of bytes that wait in the kernel for a connection, and that one read returns: large bodies that
# arrive all at once cannot fill the memory before they are counted.
RECEIVE_BUFFER_BYTES = 32_768

# Without files or memory for another connection, none is accepted for this long.
EXHAUSTED_SECONDS = 0.5
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(slots=True)
class Acceptor:
    """Connections of these sockets, with TLS if there are certificates."""

    shared: Shared
    listeners: Sequence[socket.socket]
    certificates: Certificates | None
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _is_closed: bool = False

    def start(self) -> None:
        for listener in self.listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def close(self) -> None:
        self._is_closed = True
        for listener in self.listeners:
            self._loop.remove_reader(listener.fileno())
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(MOST_ACCEPTED):
            try:
                accepted, peer = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._pause(listener, error)
                    return
                # The sender has closed the connection meanwhile.
                continue
            accepted.setblocking(False)
            self._admit(accepted, peer[0])

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        """Let connections end; meanwhile, new ones wait in the backlog."""
        if (unlogged := self.shared.refusals.unlogged("accept")) is not None:
            log.error("accept.failed", reason=error.strerror, unlogged_before=unlogged)
        self._loop.remove_reader(listener.fileno())
        self._loop.call_later(EXHAUSTED_SECONDS, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if not self._is_closed:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _admit(self, accepted: socket.socket, peer: str) -> None:
        connection = Connection(self.shared, accepted, peer)
        if not connection.admit():
            accepted.close()
            return
        task = self._loop.create_task(self._establish(connection, accepted))
        self.shared.answering.add(task)
        task.add_done_callback(self.shared.answering.discard)

    async def _establish(self, connection: Connection, accepted: socket.socket) -> None:
        """Hand the socket to the loop; with TLS, shake hands before."""
        try:
            if self.certificates is None:
                await self._loop.connect_accepted_socket(lambda: connection, accepted)
            else:
                await self._loop.connect_accepted_socket(
                    lambda: connection,
                    accepted,
                    ssl=self.certificates.context,
                    ssl_handshake_timeout=HANDSHAKE_SECONDS,
                    ssl_shutdown_timeout=LINGER_SECONDS,
                )
        except OSError as error:
            # With TLS also: the handshake was malformed, too slow, or without a client certificate.
            log.debug("connection.not_established", reason=str(error))
        if not connection.has_transport:
            if connection in self.shared.open:
                self.shared.note_refused(Reason.HANDSHAKE, connection.address)
            connection.connection_lost(None)
            accepted.close()


async def listen(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of the host, all on the same port.

    Raises:
        OSError
        UnicodeError: No host can have this name.
    """
    entries = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    listeners: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((entry[0], entry[4][:2]) for entry in entries):
            port = listeners[0].getsockname()[1] if listeners else port
            listener = socket.create_server((str(address[0]), port), family=family, backlog=BACKLOG)
            listeners.append(listener)
            listener.setblocking(False)
            # Accepted connections inherit this option.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners
