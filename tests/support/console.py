"""The console, as an application without services and as a process, and clients that sign in to it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from re import findall
from typing import Any

import httpx

from tests.support.stack import Stack, Worker, free_port, until
from worker.amqp.connection import Broker
from worker.config.console_accounts import PasswordHash
from worker.config.settings import Settings
from worker.console.application import application
from worker.console.boundary import Boundary
from worker.console.contract import Console
from worker.console.poller import Poller
from worker.postgres.pool import Database

PASSWORD = "correct-horse-battery"
HOST = "localhost:8081"


@cache
def password_hash(password: str = PASSWORD) -> str:
    """With the lowest cost that the setting accepts."""
    salt, cost = bytes(16), 2**14
    digest = hashlib.scrypt(password.encode(), salt=salt, n=cost, r=8, p=1, maxmem=2**26, dklen=32)
    return str(PasswordHash(cost, 8, 1, salt, digest))


def users(**roles: str) -> str:
    """The setting for users with these roles, all with the same password."""
    return ",".join(f"{name}:{granted}:{password_hash()}" for name, granted in roles.items())


def console_settings(**given: Any) -> Settings:
    return Settings(**{"console_users": users(anna="operator+revealer", rita="reader"), **given})


def console_of(settings: Settings, stopping: asyncio.Event) -> Console:
    """Nothing connects before it is used."""
    database = Database(settings.database_url.get_secret_value(), 1, "test")
    broker = Broker(settings.amqp_url.get_secret_value(), "test")
    return Console(settings, broker, database, Poller(broker, database, settings, stopping))


def application_with(given: dict[str, Any] | None = None, **routes: Any) -> Boundary:
    """The application with these settings, and with other screens and actions if there are any."""
    stopping = asyncio.Event()
    return application(console_of(console_settings(**(given or {})), stopping), stopping, **routes)


@asynccontextmanager
async def browser(
    app: Boundary | str, peer: str = "127.0.0.1", **headers: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A client with cookies, of an application or of the console at a URL."""
    transport = None if isinstance(app, str) else httpx.ASGITransport(app, client=(peer, 50_000))
    base_url = app if isinstance(app, str) else f"http://{HOST}"
    async with httpx.AsyncClient(
        transport=transport, base_url=base_url, headers=headers, timeout=20, verify=False
    ) as client:
        yield client


async def sign_in(
    client: httpx.AsyncClient, name: str = "anna", password: str = PASSWORD, **headers: str
) -> httpx.Response:
    form = {"name": name, "password": password, "next": "/overview"}
    return await client.post("/sign-in", data=form, headers={"Sec-Fetch-Site": "same-origin", **headers})


def token_in(page: str) -> str:
    """The token of a page's forms."""
    tokens: list[str] = findall(r'name="token" value="([0-9a-f]+)"', page)
    return tokens[0]


@asynccontextmanager
async def console(stack: Stack, **settings: str) -> AsyncIterator[tuple[str, Worker]]:
    """A console that answers, and its URL."""
    port = int(settings.get("STOCKHOOK_CONSOLE_PORT") or free_port())
    given = {
        "STOCKHOOK_CONSOLE_PORT": str(port),
        "STOCKHOOK_CONSOLE_USERS": users(anna="operator+revealer"),
        **settings,
    }
    worker = stack.start("console", **given)
    scheme = "https" if "STOCKHOOK_CONSOLE_CERTIFICATE_FILE" in settings else "http"
    url = f"{scheme}://127.0.0.1:{port}"

    async def answers() -> bool:
        assert worker.process.poll() is None, worker.lines()[-3000:]
        try:
            async with browser(url) as client:
                return (await client.get("/livez")).status_code == 200
        except httpx.TransportError:
            return False

    await until(answers, "the console answers")
    yield url, worker
    assert worker.stop() == 0, worker.lines()[-3000:]
