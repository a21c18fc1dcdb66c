"""An HTTP/1 server for one handler: llhttp (httptools) parses, asyncio carries the bytes.

docs/design/http-server.md gives the reasons for an own server, and the measurements of others. It adds to
parser and event loop: an error for the handler if a body did not arrive whole, a deadline for each state of a
connection, and limits for headers and connections.

    http_connection.py     the order of requests and answers on one connection, and its deadlines
    connection_limits.py   which connections stay open when there are too many
    acceptor.py            accepts connections, with or without TLS
    tls.py                 the certificate, and its replacement
    trusted_proxies.py     the client's address, and headers that only trusted proxies may send
    http_parser.py         from bytes to requests
    http_body.py           a body while it arrives
    http_messages.py       from bytes to headers, and from answers to bytes
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from worker.config.settings import PREFIX
from worker.ingest.acceptor import Acceptor, listen
from worker.ingest.http_connection import Handler, Limits, Shared
from worker.ingest.tls import Certificates
from worker.ingest.trusted_proxies import TrustedProxies
from worker.observability.listening import listening_on

log = structlog.get_logger(__name__)

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
    with listening_on(host, port, host_setting=f"{PREFIX}INGEST_HOST", port_setting=f"{PREFIX}INGEST_PORT"):
        acceptor = Acceptor(shared, await listen(host, port), certificates)
    bound_port: int = acceptor.listeners[0].getsockname()[1]
    acceptor.start()
    try:
        yield bound_port
    finally:
        acceptor.close()
        await _drain(shared, drain_seconds)


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
