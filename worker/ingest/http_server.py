"""An HTTP/1 server for one handler: llhttp (httptools) parses, asyncio carries the bytes.

docs/design/http-server.md says why there is one, and which servers were measured beside it. What it adds to
parser and event loop: a body that did not arrive whole is an error for the handler, a deadline for each
state of a connection, and bounds for headers and connections.

    http_connection.py     the order of requests and answers on one connection, and its deadlines
    connection_limits.py   which connections may stay when there are too many
    tls.py                 the certificate; tls_handshake.py: from a TCP connection to one that speaks TLS
    trusted_proxies.py     who sent a request, and whose word is taken for it
    http_parser.py         from bytes to requests
    http_body.py           a body while it arrives
    http_messages.py       from bytes to headers, and from answers to bytes
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import structlog

from worker.config.settings import PREFIX
from worker.ingest.http_connection import Connection, Handler, Limits, Shared
from worker.ingest.tls import Certificates
from worker.ingest.tls_handshake import Handshake
from worker.ingest.trusted_proxies import TrustedProxies
from worker.observability.listening import listening_on

log = structlog.get_logger(__name__)

BACKLOG = 1024

# Bytes that wait in the kernel for a connection, and that one read returns at most. It keeps 600 large bodies
# that arrive at once from filling the memory before anybody has looked at them.
RECEIVE_BUFFER_BYTES = 32_768

NO_PROXIES = TrustedProxies()


@asynccontextmanager
async def serving(
    handle: Handler,
    host: str,
    port: int,
    limits: Limits,
    drain_seconds: float,
    proxies: TrustedProxies = NO_PROXIES,
    certificates: Certificates | None = None,
) -> AsyncIterator[int]:
    """Listen while the context lasts; the port, which the system chooses for 0.

    At its end, requests in flight have `drain_seconds` to be answered.

    Raises:
        CannotListen
    """
    shared = Shared(handle, limits, proxies)

    def protocol() -> asyncio.Protocol:
        return Connection(shared) if certificates is None else Handshake(shared, certificates)

    loop = asyncio.get_running_loop()
    with listening_on(host, port, host_setting=f"{PREFIX}INGEST_HOST", port_setting=f"{PREFIX}INGEST_PORT"):
        server = await loop.create_server(protocol, host, port, backlog=BACKLOG)
    _bound_receive_buffers(server.sockets)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await _drain(shared, drain_seconds)


def _bound_receive_buffers(listeners: Iterable[socket.socket]) -> None:
    """Accepted connections inherit it."""
    for listener in listeners:
        # The loop's own object does not pass options on.
        with socket.socket(fileno=os.dup(listener.fileno())) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)


async def _drain(shared: Shared, seconds: float) -> None:
    """Close the connections that are idle, let the others finish, and abort what takes longer."""
    shared.is_draining = True
    shared.all_closed.clear()
    for connection in shared.open:
        connection.drain()
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    if len(shared.open):
        try:
            await asyncio.wait_for(shared.all_closed.wait(), seconds)
        except TimeoutError:
            log.warning("connections.aborted", connections=len(shared.open))
            for connection in shared.open:
                connection.abort()
    # Of senders that hung up: their events may be on the way to the broker.
    if shared.answering:
        await asyncio.wait(shared.answering, timeout=max(end - loop.time(), 0))
