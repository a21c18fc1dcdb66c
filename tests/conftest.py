"""Real services, started once for all tests; each test gets them empty."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import settings as hypothesis_settings

from deploy.local.services import DEV, Services, local_services
from tests.support.stack import Stack, delays, empty_stack
from worker.amqp.connection import Broker
from worker.amqp.topology import topology

PREFIX = "STOCKHOOK_"

# The ports of Postgres, RabbitMQ with its management, and our ingest, simulator and ops servers.
STANDARD_PORTS = (5432, 5672, 15672, 8080, 8090, 9090, 9091)

SHOWN_OF_LOG = 3000

NAMES_SAVED_SECONDS = 1.0
"""RabbitMQ (3.10) writes the names of new quorum queues to disk half a second later. If the broker is
killed within that time, the queue permanently lacks a leader."""

hypothesis_settings.register_profile("stockhook", deadline=None, print_blob=True)
hypothesis_settings.load_profile("stockhook")


def pytest_configure() -> None:
    """Tests empty their services, so external ones need the prefix of tests in their variables."""
    given = {
        PREFIX + name.removeprefix(f"{PREFIX}TEST_"): value
        for name, value in os.environ.items()
        if name.startswith(f"{PREFIX}TEST_")
    }
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    os.environ.update(given)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # Background jobs of a shell ignore SIGINT, and processes that tests interrupt would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Tests start hundreds of processes; each would compile our modules again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(DEV / "pycache")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the short unit tests to the end, so that parallel processes end at the same time."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.nodeid.startswith("tests/unit/"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the last output of the product's processes to a failure."""
    report = yield
    stacks = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Stack)]
    if report.failed and stacks:
        for worker in stacks[0].workers:
            report.sections.append((f"end of {worker.log.name}", worker.lines()[-SHOWN_OF_LOG:]))
    return report


@pytest.fixture(scope="session", autouse=True)
def _standard_ports_are_taken() -> Iterator[None]:
    """Occupy the standard ports, so that a test that relies on one fails on every machine."""
    with ExitStack() as held:
        for port in STANDARD_PORTS:
            listener = held.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Another service, or the other process of this run, may occupy the port already.
            with suppress(OSError):
                listener.bind(("127.0.0.1", port))
                listener.listen()
        yield


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with services_with_queues(tmp_path_factory.mktemp("services")) as started:
        yield started


@contextmanager
def services_with_queues(state: Path) -> Iterator[Services]:
    """Services whose queues survive a kill of the broker."""
    with local_services(state, durable=False, announce=print) as started:
        asyncio.run(_declare(started.amqp_url))
        time.sleep(NAMES_SAVED_SECONDS)
        yield started


async def _declare(amqp_url: str) -> None:
    async with Broker(amqp_url, "test").connection() as connection:
        channel = await connection.channel()
        await channel.ensure_topology(topology(delays(1, 2, 3)))


@pytest.fixture
async def fresh_database(services: Services) -> AsyncIterator[str]:
    """The URL of a database without a table."""
    name = f"fresh_{uuid4().hex}"
    connection = await asyncpg.connect(services.database_url)
    await connection.execute(f"CREATE DATABASE {name}")
    yield urlsplit(services.database_url)._replace(path=f"/{name}").geturl()
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


@pytest.fixture
async def stack(services: Services, tmp_path: Path) -> AsyncIterator[Stack]:
    async with empty_stack(services, tmp_path) as made:
        yield made
