"""`python -m tests.bench.servers.serve SERVER PORT`: the ingest's handler behind a server, no broker."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import uvloop

from deploy.local.services import DEV
from worker.amqp.channel import Message
from worker.config.settings import Settings
from worker.ingest.exchange import BodyIncomplete, Request, Response
from worker.ingest.http_connection import Limits
from worker.ingest.http_server import serving
from worker.ingest.service import Ingest

# The other servers come from the environment of `make bench`; the product's own versions have priority.
sys.path += map(str, DEV.glob("venv-bench/lib/python*/site-packages"))

SECRET = "bench-ovoko-secret"
HOST = "127.0.0.1"

# Configured on each server that has the setting.
HEADER_SECONDS = 5
IDLE_SECONDS = 12
GRACE_SECONDS = 6
HEADER_BYTES = 16_384


@dataclass
class Counted:
    """`/readyz` answers with the number of stored events."""

    stored: int = 0

    async def store(self, message: Message, family: str | None) -> None:
        self.stored += 1

    async def check(self) -> str | None:
        return None

    def details(self) -> dict[str, object]:
        return {"stored": self.stored}


def new_ingest() -> Ingest:
    return Ingest(Settings(ovoko_secrets=SECRET), Counted())  # type: ignore[arg-type]  # as the environment has them


def stockhook(port: int) -> None:
    async def main() -> None:
        limits = Limits(IDLE_SECONDS, HEADER_SECONDS, HEADER_BYTES)
        async with serving(new_ingest().handle, HOST, port, limits, GRACE_SECONDS):
            await _signalled()

    uvloop.run(main())


def aiohttp(port: int) -> None:
    """Its low-level server."""
    from aiohttp import web

    async def main() -> None:
        handle = new_ingest().handle

        async def on_request(request: web.BaseRequest) -> web.Response:
            async def chunks() -> AsyncIterator[bytes]:
                try:
                    async for chunk in request.content.iter_any():
                        yield chunk
                except (web.RequestPayloadError, ConnectionError) as error:
                    raise BodyIncomplete from error

            headers: dict[str, str] = {}
            for name, value in request.headers.items():
                name = name.lower()
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
            response = await handle(Request(request.method, request.path, headers, chunks()))
            return web.Response(status=response.status, body=response.body, headers=_pairs(response))

        runner = web.ServerRunner(web.Server(on_request, keepalive_timeout=IDLE_SECONDS, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, HOST, port, shutdown_timeout=GRACE_SECONDS).start()
        await _signalled()
        await runner.cleanup()

    uvloop.run(main())


def granian(port: int) -> None:
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces, Loops
    from granian.http import HTTP1Settings

    Granian(
        target="tests.bench.servers.serve:new_rsgi",
        factory=True,
        address=HOST,
        port=port,
        interface=Interfaces.RSGI,
        workers=1,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        websockets=False,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_SECONDS * 1000, max_buffer_size=HEADER_BYTES),
        backpressure=512,
        log_access=False,
        log_enabled=False,
        workers_kill_timeout=GRACE_SECONDS + 5,
    ).serve()


def new_rsgi() -> Callable[[Any, Any], Awaitable[None]]:
    from granian.rsgi import ProtocolClosed, ProtocolError

    handle = new_ingest().handle

    async def application(scope: Any, protocol: Any) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                async for chunk in protocol:
                    yield chunk
            except (ProtocolClosed, ProtocolError) as error:
                raise BodyIncomplete from error

        headers = {name.lower(): value for name, value in scope.headers.items()}
        with suppress(ProtocolClosed):
            response = await handle(Request(scope.method, scope.path, headers, chunks()))
            protocol.response_bytes(response.status, list(_pairs(response).items()), response.body)

    return application


def uvicorn(port: int) -> None:
    import uvicorn as library

    library.run(
        new_asgi(),
        host=HOST,
        port=port,
        http="httptools",
        loop="uvloop",
        lifespan="off",
        log_level="critical",
        access_log=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def hypercorn(port: int) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"{HOST}:{port}"]
    config.keep_alive_timeout = IDLE_SECONDS
    config.h11_max_incomplete_size = HEADER_BYTES
    config.graceful_timeout = GRACE_SECONDS
    config.errorlog = None
    uvloop.run(serve(new_asgi(), config, shutdown_trigger=_signalled))  # type: ignore[arg-type]  # an ASGI application


def new_asgi() -> Callable[[Any, Any, Any], Awaitable[None]]:
    handle = new_ingest().handle

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return  # lifespan events: nothing is opened or closed here

        async def chunks() -> AsyncIterator[bytes]:
            while True:
                event = await receive()
                if event["type"] == "http.disconnect":
                    raise BodyIncomplete
                yield event.get("body", b"")
                if not event.get("more_body", False):
                    return

        headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode().lower(), raw_value.decode(errors="surrogateescape")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        response = await handle(Request(scope["method"], scope["path"], headers, chunks()))
        pairs = [(name.encode(), value.encode()) for name, value in _pairs(response).items()]
        await send({"type": "http.response.start", "status": response.status, "headers": pairs})
        await send({"type": "http.response.body", "body": response.body})

    return application


def _pairs(response: Response) -> dict[str, str]:
    length = {"content-length": str(len(response.body))}
    return {"content-type": response.content_type, **length, **dict(response.headers)}


async def _signalled() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await stopping.wait()


SERVERS: dict[str, Callable[[int], None]] = {
    "stockhook": stockhook,
    "granian": granian,
    "aiohttp": aiohttp,
    "uvicorn": uvicorn,
    "hypercorn": hypercorn,
}

if __name__ == "__main__":
    os.environ.pop("GRANIAN_LOG_LEVEL", None)
    SERVERS[sys.argv[1]](int(sys.argv[2]))
