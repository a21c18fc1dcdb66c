"""The ingest as a granian application (RSGI), and the command that serves it.

granian was chosen because it alone, of the servers tried, cuts off half-sent headers and silent
connections, finishes open requests on SIGTERM, and then exits 0.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import structlog
from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.rsgi import (  # type: ignore[attr-defined]  # granian re-exports them from its Rust part
    HTTPProtocol,
    ProtocolClosed,
    ProtocolError,
    Scope,
)

from schemas.events import Provider
from worker import metrics
from worker.broker import Broker
from worker.exposure import weak_secrets
from worker.ingest.service import Disconnected, Ingest, Request, Response, why_off
from worker.ingest.spool import Spool, SpoolBroken
from worker.ingest.storage import Storage
from worker.lifetime import hang_watch, stop_with_parent
from worker.listening import listening_on
from worker.logs import configure
from worker.notify import telling_manager
from worker.ops import serve_ops
from worker.publisher import Publisher
from worker.resolver import run_loop
from worker.settings import PREFIX, BadSettings, Settings, read_settings
from worker.stderr import drain
from worker.topology import topology

log = structlog.get_logger(__name__)

# What is open then was not answered, so it is sent again.
FAILED = 70

# The publisher keeps trying in the background; the first requests need not wait for it.
FIRST_CONNECTION_SECONDS = 5


class Application:
    """One per process. granian calls it by these names, on the loop that serves."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._ingest: Ingest | None = None
        self._draining: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.run_until_complete(self._start())

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.run_until_complete(self._stop())
        log.info("ingest.stopped")

    async def _start(self) -> None:
        settings = self._settings
        publisher = await self._stack.enter_async_context(
            Publisher(
                Broker(settings.amqp_url.get_secret_value(), "ingest"),
                topology(settings.delays),
                settings.publish_timeout,
                settings.declare_topology,
            )
        )
        storage = Storage(publisher, await self._open_spool())
        storage.measure()
        metrics.begin_ingest(Provider)
        checks = {"intake": storage.check}
        await self._stack.enter_async_context(
            serve_ops(settings.ops_host, settings.ops_port, checks, metrics.INGEST, storage.look)
        )
        await self._stack.enter_async_context(hang_watch())
        with suppress(TimeoutError):
            await asyncio.wait_for(publisher.wait_ready(), FIRST_CONNECTION_SECONDS)
        self._draining = asyncio.create_task(storage.drain(self._stopping), name="drainer")
        for task in (self._draining, asyncio.create_task(publisher.failed(), name="publisher")):
            task.add_done_callback(self._end_with)
        self._ingest = Ingest(settings, storage)
        await self._stack.enter_async_context(telling_manager(checks, self._stopping))
        log.info("ingest.listening", host=settings.ingest_host, port=settings.ingest_port)

    async def _stop(self) -> None:
        self._stopping.set()
        if self._draining is not None:
            self._draining.cancel()
            await asyncio.wait([self._draining])
        await self._stack.aclose()

    def _end_with(self, task: asyncio.Task[None]) -> None:
        """Without publisher or drainer we would only fill the spool: the supervisor is to start us anew."""
        if self._stopping.is_set():
            return
        error = None if task.cancelled() else task.exception()
        log.critical("ingest.ended", because=task.get_name(), reason=str(error))
        drain()
        os._exit(FAILED)

    async def _open_spool(self) -> Spool | None:
        """Without a spool we still serve: events are refused while the broker is away."""
        spool = Spool(self._settings.spool_path, self._settings.spool_max_bytes)
        try:
            return await self._stack.enter_async_context(spool)
        except SpoolBroken as error:
            log.error("spool.broken", reason=str(error))
            return None

    async def __rsgi__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        assert self._ingest is not None, "requests come after the start"
        headers = {name.lower(): value for name, value in scope.headers.items()}
        request = Request(scope.method, scope.path, headers, _chunks(protocol))
        with suppress(ProtocolClosed):
            _send(protocol, await self._ingest.handle(request))


async def _chunks(protocol: HTTPProtocol) -> AsyncIterator[bytes]:
    try:
        async for chunk in protocol:
            yield chunk
    except (ProtocolClosed, ProtocolError) as error:
        raise Disconnected from error


def _send(protocol: HTTPProtocol, response: Response) -> None:
    headers = [("content-type", response.content_type), *response.headers]
    protocol.response_bytes(response.status, headers, response.body)


def create_application() -> Application:
    """Called by granian in its worker process."""
    stop_with_parent(os.getppid())
    settings = read_settings()
    configure(settings.log_format, settings.log_level, "ingest")
    return Application(settings)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        BadSettings: Neither endpoint can be served.
        CannotListen
        SpoolTaken
    """
    off = {provider: why_off(provider, settings) for provider in Provider}
    for provider, reason in off.items():
        if reason is not None:
            log.warning("endpoint.off", provider=provider, reason=reason)
    if all(off.values()):
        raise BadSettings("no endpoint can be served: " + " ".join(filter(None, off.values())))
    _refuse_weak_secrets(settings)
    run_loop(_refuse_what_is_taken(settings))
    Granian(
        target="worker.ingest.rsgi:create_application",
        factory=True,
        address=settings.ingest_host,
        port=settings.ingest_port,
        interface=Interfaces.RSGI,
        workers=1,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        websockets=False,
        http1_settings=HTTP1Settings(header_read_timeout=5_000, max_buffer_size=16_384),
        backpressure=512,
        log_level=LogLevels.warning,
        log_access=False,
        log_dictconfig=_LOGGING,
        workers_kill_timeout=int(settings.shutdown_grace) + 5,
    ).serve()


async def _refuse_what_is_taken(settings: Settings) -> None:
    """Before granian starts the process that serves, whose failures it shows as tracebacks.

    Raises:
        CannotListen
        SpoolTaken
    """
    for name in ("ingest", "ops"):
        host, port = getattr(settings, f"{name}_host"), getattr(settings, f"{name}_port")
        settings_of = {
            f"{what}_setting": f"{PREFIX}{name.upper()}_{what.upper()}" for what in ("host", "port")
        }
        with listening_on(host, port, **settings_of):
            server = await asyncio.start_server(lambda _, writer: writer.close(), host, port)
        server.close()
        await server.wait_closed()
    with suppress(SpoolBroken):
        async with Spool(settings.spool_path, settings.spool_max_bytes):
            pass


def _refuse_weak_secrets(settings: Settings) -> None:
    """Whoever guesses one can invent orders."""
    if settings.environment == "development":
        return
    accepted = {"OVOKO_SECRETS": settings.ovoko_secrets, "BUYBACK_TOKENS": settings.buyback_tokens}
    faults = [
        f"{PREFIX}{name}: {fault}" for name, secrets in accepted.items() for fault in weak_secrets(secrets)
    ]
    if faults:
        raise BadSettings("; ".join(faults) + f": set longer ones, or {PREFIX}ENVIRONMENT=development")


# granian's own lines go where ours go.
_LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"_granian": {"level": "WARNING", "propagate": True}},
}
