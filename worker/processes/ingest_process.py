"""The command that serves the ingest: one process, in which one loop serves and publishes."""

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress

import structlog

from worker.amqp.connection import Broker
from worker.amqp.publisher import Publisher
from worker.amqp.topology import topology
from worker.config.security import weak_gateway_keys, weak_secrets
from worker.config.settings import PREFIX, BadSettings, Settings
from worker.ingest.acceptor import BACKLOG
from worker.ingest.connection_limits import ConnectionLimits
from worker.ingest.event_sink import Storage
from worker.ingest.http_connection import Limits
from worker.ingest.http_server import serving
from worker.ingest.service import Ingest
from worker.ingest.spool.spool import Spool, SpoolBroken
from worker.ingest.tls import BadCertificate, Certificates, Files
from worker.ingest.trusted_proxies import TrustedProxies
from worker.intake.signature import Rule
from worker.marketplaces.registry import MARKETPLACES
from worker.observability import metrics
from worker.observability.file_limit import files_for_connections
from worker.observability.ops_server import serve_ops
from worker.observability.resolver import run_loop
from worker.observability.signals import hang_watch, stop_on_signals
from worker.observability.stderr import drain
from worker.observability.systemd import notify_systemd

log = structlog.get_logger(__name__)

# Requests that are open then get no answer, so their senders repeat them.
FAILED = 70

# The publisher keeps trying in the background; the first requests need not wait for it.
FIRST_CONNECTION_SECONDS = 5


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        BadSettings: No endpoint can be served, or a secret is weak.
        CannotListen
        SpoolTaken
    """
    if settings.gateway is None and settings.gateway_require == "gateway":
        raise BadSettings(f"{PREFIX}GATEWAY_REQUIRE is gateway: set {PREFIX}GATEWAY, or another value")
    reasons = {name: marketplace.disabled_reason(settings) for name, marketplace in MARKETPLACES.items()}
    for name, reason in reasons.items():
        if reason is not None:
            log.warning("endpoint.disabled", provider=name, reason=reason)
    if all(reasons.values()):
        raise BadSettings("no endpoint can be served: " + " ".join(filter(None, reasons.values())))
    _refuse_weak_secrets(settings)
    run_loop(_serve(settings))


async def _serve(settings: Settings) -> None:
    stopping = stop_on_signals()
    certificates = _load_certificates(settings)
    connections = ConnectionLimits(
        files_for_connections(settings.ingest_connections, BACKLOG), settings.ingest_connections_per_address
    )
    async with AsyncExitStack() as stack:
        publisher = await stack.enter_async_context(
            Publisher(
                Broker(settings.amqp_url.get_secret_value(), "ingest"),
                topology(settings.delays),
                settings.publish_timeout,
                settings.declare_topology,
            )
        )
        storage = Storage(publisher, await _open_spool(settings, stack))
        storage.measure()
        metrics.initialize_ingest(MARKETPLACES)
        for name in MARKETPLACES:
            if settings.gateway_of(name) is not None:
                metrics.initialize_gateway(name, ("absent", *Rule))
        checks = {"intake": storage.check}

        def details() -> Mapping[str, object]:
            certificate = {} if certificates is None else {"certificate": certificates.describe()}
            return {**storage.details(), "broker": publisher.trouble or "ok", **certificate}

        await stack.enter_async_context(
            serve_ops(settings.ops_host, settings.ops_port, checks, metrics.INGEST, details)
        )
        await stack.enter_async_context(hang_watch())
        with suppress(TimeoutError):
            await asyncio.wait_for(publisher.wait_ready(), FIRST_CONNECTION_SECONDS)
        draining = asyncio.create_task(storage.drain(stopping), name="drainer")
        stack.push_async_callback(_cancelled, draining)
        # Before the two tasks end, for whatever reason.
        stack.callback(stopping.set)
        for task in (draining, asyncio.create_task(publisher.failed(), name="publisher")):
            task.add_done_callback(lambda task: _end_with(task, stopping))
        await stack.enter_async_context(notify_systemd(checks, stopping))
        if certificates is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, certificates.request_reload)
            watching = asyncio.create_task(certificates.watch(), name="certificates")
            watching.add_done_callback(lambda task: _end_with(task, stopping))
            stack.push_async_callback(_cancelled, watching)
        await stack.enter_async_context(
            serving(
                Ingest(settings, storage).handle,
                settings.ingest_host,
                settings.ingest_port,
                Limits(settings.ingest_idle_timeout, connections=connections),
                settings.shutdown_grace,
                TrustedProxies(settings.trusted_proxies),
                certificates,
            )
        )
        log.info(
            "ingest.listening",
            host=settings.ingest_host,
            port=settings.ingest_port,
            is_encrypted=certificates is not None,
        )
        await stopping.wait()
    log.info("ingest.stopped")


def _load_certificates(settings: Settings) -> Certificates | None:
    """Raises: BadSettings."""
    files = Files.of(settings)
    try:
        return None if files is None else Certificates(files)
    except BadCertificate as error:
        raise BadSettings(str(error)) from None


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait([task])


def _end_with(task: "asyncio.Task[None]", stopping: asyncio.Event) -> None:
    """Without publisher or drainer we would only fill the spool: exit, so that the supervisor restarts us."""
    if stopping.is_set():
        return
    error = None if task.cancelled() else task.exception()
    log.critical("ingest.ended", because=task.get_name(), reason=str(error))
    drain()
    os._exit(FAILED)


async def _open_spool(settings: Settings, stack: AsyncExitStack) -> Spool | None:
    """Without a spool the ingest still serves; it refuses events while the broker is unavailable."""
    spool = Spool(settings.spool_path, settings.spool_max_bytes)
    try:
        return await stack.enter_async_context(spool)
    except SpoolBroken as error:
        log.error("spool.broken", reason=str(error))
        return None


def _refuse_weak_secrets(settings: Settings) -> None:
    """Anybody who guesses a secret can invent orders."""
    if settings.environment == "development":
        return
    faults = [
        f"{marketplace.secrets_variable}: {fault}"
        for marketplace in MARKETPLACES.values()
        for fault in weak_secrets(marketplace.secrets(settings))
    ]
    faults += [f"{PREFIX}GATEWAY_SECRETS: {fault}" for fault in weak_gateway_keys(settings.gateway_keys)]
    if faults:
        raise BadSettings("; ".join(faults) + f": set longer ones, or {PREFIX}ENVIRONMENT=development")
