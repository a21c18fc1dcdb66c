"""The process of the console: from its settings to the last answer."""

import asyncio
import secrets
import socket
import ssl
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress

import structlog
import uvicorn

from worker.amqp.connection import Broker
from worker.config.console_accounts import PasswordHash
from worker.config.security import is_this_machine
from worker.config.settings import PREFIX, BadSettings, Settings
from worker.console.application import application
from worker.console.contract import Console
from worker.console.poller import Poller
from worker.dead_letters import job_runner
from worker.dead_letters.job_runner import JobRunner
from worker.ingest.tls import BadCertificate, Certificates, Files
from worker.observability.listening import listening_on
from worker.observability.resolver import look_up
from worker.observability.signals import hang_watch, stop_on_signals
from worker.observability.systemd import notify_systemd
from worker.postgres.pool import Database

log = structlog.get_logger(__name__)

DEVELOPER = "developer"

DATABASE_CONNECTIONS = 4

# More connections than this get 503; 6 per browser is usual.
MOST_CONNECTIONS = 512
KEEP_ALIVE_SECONDS = 20


# The header Date of answers is updated at this interval.
DATE_SECONDS = 1.0


class _Server(uvicorn.Server):
    """Serves until `stopping` is set, by our own signal handlers; `should_exit` ends a startup."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        """Unlike that of uvicorn, it does not wake up ten times per second."""
        while not self._stopping.is_set():
            await self.on_tick(0)
            with suppress(TimeoutError):
                async with asyncio.timeout(DATE_SECONDS):
                    await self._stopping.wait()


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        BadSettings: No user could sign in, or passwords would be sent in clear.
        CannotListen
    """
    settings = _with_login(settings)
    check(settings)
    stopping = stop_on_signals()
    async with AsyncExitStack() as stack:
        database = Database(
            settings.database_url.get_secret_value(), DATABASE_CONNECTIONS, "stockhook/console"
        )
        stack.push_async_callback(database.close)
        database.warn_of_ignored()
        broker = Broker(settings.amqp_url.get_secret_value(), "console")
        poller = Poller(broker, database, settings, stopping)
        console = Console(settings, broker, database, poller)
        listener = await _listen(settings)
        stack.callback(listener.close)
        context = await _tls(settings, stack)
        server = _Server(
            uvicorn.Config(
                application(console, stopping),
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                log_level="warning",
                # The console reads these headers itself, from trusted proxies.
                proxy_headers=False,
                server_header=False,
                limit_concurrency=MOST_CONNECTIONS,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=max(1, round(settings.shutdown_grace)),
                ssl_context_factory=None if context is None else lambda *_: context,
            ),
            stopping,
        )
        polling = asyncio.create_task(poller.run(), name="poller")
        stack.push_async_callback(_stopped, polling, stopping)
        if not settings.console_read_only:
            await _execute_jobs(settings, stack, stopping)
        await stack.enter_async_context(hang_watch())
        await stack.enter_async_context(notify_systemd({}, stopping))
        serving = asyncio.create_task(server.serve([listener]), name="server")
        log.info(
            "console.listening",
            host=settings.console_host,
            port=settings.console_port,
            is_encrypted=context is not None,
        )
        signal = asyncio.create_task(stopping.wait())
        await asyncio.wait([serving, signal], return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        stopping.set()
        await serving
    log.info("console.stopped")


def check(settings: Settings) -> None:
    """Raises: BadSettings."""
    has_proxy = bool(settings.console_trusted_proxies)
    if settings.console_proxy_user_header is not None and not has_proxy:
        raise BadSettings(f"{PREFIX}CONSOLE_PROXY_USER_HEADER needs {PREFIX}CONSOLE_TRUSTED_PROXIES")
    if settings.console_proxy_groups_header is not None and settings.console_proxy_user_header is None:
        raise BadSettings(f"{PREFIX}CONSOLE_PROXY_GROUPS_HEADER needs {PREFIX}CONSOLE_PROXY_USER_HEADER")
    if not settings.console_users and settings.console_proxy_user_header is None:
        raise BadSettings(
            f"no user could sign in to the console: set {PREFIX}CONSOLE_USERS (`stockhook console "
            f"hash-password` makes an entry's hash), or {PREFIX}CONSOLE_TRUSTED_PROXIES and "
            f"{PREFIX}CONSOLE_PROXY_USER_HEADER"
        )
    if not (is_this_machine(settings.console_host) or settings.console_certificate_file or has_proxy):
        raise BadSettings(
            f"{PREFIX}CONSOLE_HOST is not an address of this machine alone, so passwords would be sent in "
            f"clear: set {PREFIX}CONSOLE_CERTIFICATE_FILE, or {PREFIX}CONSOLE_TRUSTED_PROXIES to a proxy "
            "that uses TLS"
        )


def _with_login(settings: Settings) -> Settings:
    """In development, a login that is printed, where no other is set."""
    has_login = settings.console_users or settings.console_proxy_user_header is not None
    if settings.environment != "development" or has_login:
        return settings
    password = secrets.token_urlsafe(12)
    log.warning("console.development_login", user=DEVELOPER, password=password)
    entry = f"{DEVELOPER}:operator+revealer:{PasswordHash.of(password)}"
    return settings.model_copy(update={"console_users": Settings(console_users=entry).console_users})


async def _listen(settings: Settings) -> socket.socket:
    """Raises: CannotListen."""
    host, port = settings.console_host, settings.console_port
    prefix = f"{PREFIX}CONSOLE"
    with listening_on(host, port, host_setting=f"{prefix}_HOST", port_setting=f"{prefix}_PORT"):
        family, *_, address = (await look_up(host, port, type=socket.SOCK_STREAM))[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        return listener


async def _execute_jobs(settings: Settings, stack: AsyncExitStack, stopping: asyncio.Event) -> None:
    """With connections of their own, so that pages do not wait for them."""
    url = settings.database_url.get_secret_value()
    database = Database(url, job_runner.CONNECTIONS, "stockhook/console-jobs")
    stack.push_async_callback(database.close)
    broker = Broker(settings.amqp_url.get_secret_value(), "console jobs")
    runner = JobRunner(broker, database, settings, stopping)
    running = asyncio.create_task(runner.run(), name="jobs")
    stack.push_async_callback(_stopped, running, stopping)


async def _tls(settings: Settings, stack: AsyncExitStack) -> ssl.SSLContext | None:
    """The context of the listener, with which each new connection gets the certificate that is loaded then.

    Raises:
        BadSettings
    """
    certificate, key = settings.console_certificate_file, settings.console_key_file
    if certificate is None or key is None:
        return None
    try:
        certificates = Certificates(Files(certificate, key, server="CONSOLE"))
    except BadCertificate as error:
        raise BadSettings(str(error)) from None
    context = certificates.context

    def use_newest(connection: ssl.SSLObject | ssl.SSLSocket, *_: object) -> None:
        connection.context = certificates.context

    context.sni_callback = use_newest
    watching = asyncio.create_task(certificates.watch(), name="certificates")
    stack.callback(watching.cancel)
    return context


async def _stopped(task: "asyncio.Task[None]", stopping: asyncio.Event) -> None:
    """Wait for a task that ends when `stopping` is set."""
    stopping.set()
    with suppress(TimeoutError):
        await asyncio.wait_for(task, 5)
