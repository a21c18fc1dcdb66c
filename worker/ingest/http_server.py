"""An HTTP/1 server for one handler: llhttp (httptools) parses, asyncio carries the bytes.

docs/design/http-server.md says why there is one, and which servers were measured beside it. What it adds to
parser and event loop: a body that did not arrive whole is an error for the handler, a deadline for each
state of a connection, and bounds for headers and connections.

    http_connection.py   the order of requests and answers on one connection, and its deadlines
    http_parser.py       from bytes to requests
    http_body.py         a body while it arrives
    http_messages.py     from bytes to headers, and from answers to bytes
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from worker.config.settings import PREFIX
from worker.ingest.http_connection import Connection, Connections, Handler, Limits
from worker.observability.listening import listening_on

BACKLOG = 1024


@asynccontextmanager
async def serving(
    handle: Handler, host: str, port: int, limits: Limits, drain_seconds: float
) -> AsyncIterator[int]:
    """Listen while the context lasts; the port, which the system chooses for 0.

    At its end, requests in flight have `drain_seconds` to be answered.

    Raises:
        CannotListen
    """
    connections = Connections(handle, limits)
    loop = asyncio.get_running_loop()
    with listening_on(host, port, host_setting=f"{PREFIX}INGEST_HOST", port_setting=f"{PREFIX}INGEST_PORT"):
        server = await loop.create_server(lambda: Connection(connections), host, port, backlog=BACKLOG)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await connections.drain(drain_seconds)
