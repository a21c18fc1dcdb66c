"""The product under test as real processes, with access to its queues, tables and logs."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryFile
from time import monotonic
from typing import Any

import asyncpg
import httpx
from cryptography.fernet import Fernet

from consumers.registry import FAMILIES
from deploy.local.ports import choose_ports, free_port_pair
from deploy.local.services import Services
from schemas.registry import Provider
from tests.support.fault_sql import REMOVE_FAULT
from tests.support.forking import Forked, fork_server
from worker.amqp.connection import Broker
from worker.amqp.tap import Delivery
from worker.amqp.topology import topology
from worker.config.settings import Settings
from worker.postgres.migrations import migrate
from worker.postgres.pool import Database

OVOKO_SECRET = "ovoko-secret-current-0123456789"
OVOKO_SECRET_OLD = "ovoko-secret-old-0123456789"
BUYBACK_TOKEN = "canary-token-5f0c1e9a-7d3b-4a56-9d0e-2b8f6c1a4e77"
BUYBACK_TOKEN_OLD = "canary-token-old-93b1f0d2-66aa-4c0e-8b57-1c2d3e4f5a6b"

# The value of the token in an example, as the documents print it.
EXAMPLE_TOKEN = re.compile(rb'(?<="token":)\s*"[0-9a-f-]{36}"')

TABLES = (
    "event_log, event_log_dropped, event_ids, reused_event_ids, parts, orders, returns, return_items, "
    "buyback_orders, buyback_items, buyback_shipments, reminders, communications, findings, "
    "event_sequences, poison_candidates, dead_letters, dead_letter_audit, unhandled_events, changes, "
    "change_counts, webhooks, actions, paused_families, operator_audit, bulk_jobs"
)
# TRUNCATE takes longer than a check whether a table is empty, and most are.
TRUNCATE_FILLED = f"""
DO $$
DECLARE
    name text;
    is_filled boolean;
BEGIN
    FOREACH name IN ARRAY string_to_array('{TABLES}', ', ') LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %I)', name) INTO is_filled;
        IF is_filled THEN
            EXECUTE format('TRUNCATE %I CASCADE', name);
        END IF;
    END LOOP;
END $$;
"""
# A rebuild that reports differences leaves its tables for the next one.
DROP_REBUILDS = "".join(f"DROP SCHEMA IF EXISTS rebuild_{family} CASCADE;" for family in FAMILIES)

# Variables that are read when the interpreter starts, or when a module is imported.
READ_AT_START = ("PYTHON", "LC_", "LANG", "STOCKHOOK_CRASH_AT")


def free_port() -> int:
    """A different port each time, outside of the range of outgoing connections."""
    return choose_ports(["port"], {})["port"]


def http_client(seconds: float = 20) -> httpx.AsyncClient:
    """A client for plain HTTP, because loading certificate authorities takes 65 ms of CPU time per client."""
    return httpx.AsyncClient(timeout=seconds, verify=False)


async def until(condition: Callable[[], Awaitable[Any]], what: str, seconds: float = 20) -> Any:
    """Wait until the condition is true, and return its value.

    Raises:
        AssertionError: It was not true within `seconds`; the message has `what`.
    """
    end = monotonic() + seconds
    while True:
        began = monotonic()
        value = await condition()
        if value:
            return value
        if monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        # A slow condition leaves as much time to the processes that it waits for.
        await asyncio.sleep(max(0.05, monotonic() - began))


@dataclass(slots=True)
class Worker:
    """One process of the product."""

    command: str
    process: subprocess.Popen[bytes] | Forked
    log: Path
    ops_port: int

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = 20) -> int:
        return self.process.wait(seconds)

    def stop(self, seconds: float = 20) -> int:
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def kill(self) -> None:
        """Kill the process and its descendants with SIGKILL."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def lines(self) -> str:
        return self.log.read_text()


@dataclass(slots=True)
class Stack:
    """Empty services, the environment of the product, and its processes."""

    environment: dict[str, str]
    folder: Path
    workers: list[Worker] = field(default_factory=list)
    forks: bool = True
    """Whether processes are forks. Tests that change how a process is started set it to False."""

    @property
    def settings(self) -> Settings:
        names = {name.removeprefix("STOCKHOOK_").lower(): value for name, value in self.environment.items()}
        return Settings(**names)  # type: ignore[arg-type]  # strings, as the environment has them

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.environment['STOCKHOOK_INGEST_PORT']}"

    def start(self, *arguments: str, **overrides: str) -> Worker:
        """Start `stockhook` with these arguments, without waiting for it."""
        ops_port = free_port_pair()
        log = self.folder / f"{len(self.workers)}-{arguments[0]}.log"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("STOCKHOOK_")},
            **self.environment,
            "STOCKHOOK_OPS_PORT": str(ops_port),
            **overrides,
        }
        with log.open("wb") as out:
            process: subprocess.Popen[bytes] | Forked
            if self._may_fork(overrides):
                process = fork_server().start(arguments, environment, out, out)
            else:
                process = subprocess.Popen(
                    [sys.executable, "-m", "worker", *arguments],
                    env=environment,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
        worker = Worker(arguments[0], process, log, ops_port)
        self.workers.append(worker)
        return worker

    async def started(self, *arguments: str, **overrides: str) -> Worker:
        """Start a process, and wait until it is ready."""
        worker = self.start(*arguments, **overrides)
        await self.ready(worker)
        return worker

    async def started_apart(self, **overrides: str) -> None:
        """Start the ingest and the consumers, as forks: they start faster than the two processes of `run`."""
        workers = [self.start(command, **overrides) for command in ("ingest", "consume")]
        for worker in workers:
            await self.ready(worker)

    async def ready(self, worker: Worker, seconds: float = 20) -> None:
        urls = [f"http://127.0.0.1:{worker.ops_port}/readyz"]
        if worker.command in ("run", "ingest"):
            urls.append(f"{self.url}/readyz")

        async def is_ready() -> bool:
            assert worker.process.poll() is None, f"{worker.command} ended:\n{worker.lines()[-3000:]}"
            try:
                async with http_client() as client:
                    answers = [await client.get(url) for url in urls]
            except httpx.TransportError:
                return False
            return all(answer.status_code == 200 for answer in answers)

        await until(is_ready, f"{worker.log.name} is ready", seconds)

    def run(self, *arguments: str, **overrides: str) -> subprocess.CompletedProcess[str]:
        """Run `stockhook` and wait until it ends."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("STOCKHOOK_")},
            **self.environment,
            "STOCKHOOK_OPS_PORT": str(free_port_pair()),
            **overrides,
        }
        if not self._may_fork(overrides):
            return subprocess.run(
                [sys.executable, "-m", "worker", *arguments],
                env=environment,
                capture_output=True,
                text=True,
                timeout=180,
                check=False,
            )
        with TemporaryFile() as output, TemporaryFile() as errors:
            code = fork_server().start(arguments, environment, output, errors).wait(180)
            texts = []
            for file in (output, errors):
                file.seek(0)
                texts.append(file.read().decode())
        return subprocess.CompletedProcess(arguments, code, *texts)

    def _may_fork(self, overrides: Mapping[str, str]) -> bool:
        """Whether the environment has no variables that only count at the start of an interpreter."""
        return self.forks and not any(
            name.startswith(READ_AT_START) for name in {**self.environment, **overrides}
        )

    async def post_ovoko(self, body: bytes, secret: str = OVOKO_SECRET) -> httpx.Response:
        async with http_client() as client:
            return await client.post(
                f"{self.url}/webhooks/ovoko", content=body, headers={"X-Webhook-Secret": secret}
            )

    async def post_buyback(self, body: bytes) -> httpx.Response:
        async with http_client() as client:
            return await client.post(f"{self.url}/webhooks/buyback", content=body)

    async def post(self, provider: Provider, body: bytes) -> httpx.Response:
        """Send a webhook with the right secret; it replaces the token in an example's body."""
        if provider is Provider.OVOKO:
            return await self.post_ovoko(body)
        return await self.post_buyback(EXAMPLE_TOKEN.sub(f'"{BUYBACK_TOKEN}"'.encode(), body, count=1))

    async def look(self, path: str) -> httpx.Response:
        async with http_client() as client:
            return await client.get(f"{self.url}{path}")

    async def fetch(self, query: str, *args: object) -> list[dict[str, Any]]:
        connection = await asyncpg.connect(self.environment["STOCKHOOK_DATABASE_URL"])
        try:
            return [dict(row) for row in await connection.fetch(query, *args)]
        finally:
            await connection.close()

    async def execute(self, query: str) -> None:
        connection = await asyncpg.connect(self.environment["STOCKHOOK_DATABASE_URL"])
        try:
            await connection.execute(query)
        finally:
            await connection.close()

    async def count(self, table: str) -> int:
        rows = await self.fetch(f"SELECT count(*) AS rows FROM {table}")
        return int(rows[0]["rows"])

    async def depths(self) -> Mapping[str, int]:
        """The number of ready messages per queue, without empty queues."""
        async with self.broker.connection() as connection:
            depths = await connection.depths(queue.name for queue in topology(self.settings.delays).queues)
        return {name: depth.ready for name, depth in depths.items() if depth is not None and depth.ready}

    async def ops(self, port: int, path: str) -> httpx.Response:
        async with http_client() as client:
            return await client.get(f"http://127.0.0.1:{port}{path}")

    async def delete_queue(self, queue: str) -> None:
        async with self.broker.connection() as connection:
            channel = await connection.channel()
            await channel.delete(queue)

    async def get(self, queue: str) -> Delivery | None:
        """Remove one message from the queue, and return it."""
        async with self.broker.connection() as connection:
            channel = await connection.channel()
            return await channel.get(queue)

    @property
    def broker(self) -> Broker:
        return Broker(self.environment["STOCKHOOK_AMQP_URL"], "test")

    async def empty(self) -> None:
        """Declare, migrate, purge and truncate, so that each test starts empty."""
        database = Database(self.environment["STOCKHOOK_DATABASE_URL"], 1, "test")
        await migrate(database)
        await database.close()
        await self.execute(REMOVE_FAULT + DROP_REBUILDS + TRUNCATE_FILLED)
        async with self.broker.connection() as connection:
            channel = await connection.channel()
            await channel.ensure_topology(topology(self.settings.delays))
            depths = await connection.depths(queue.name for queue in topology(self.settings.delays).queues)
            for name, depth in depths.items():
                if depth is not None and depth.ready:
                    await channel.purge(name)

    def close(self) -> None:
        for worker in self.workers:
            worker.signal(signal.SIGTERM)
        for worker in self.workers:
            with suppress(subprocess.TimeoutExpired):
                worker.wait()
            worker.kill()


async def printed_settings(simulate: Worker) -> dict[str, str]:
    """The settings that `stockhook simulate marketplaces` prints once it has started."""

    async def has_started() -> bool:
        return "STOCKHOOK_OVOKO_USER_TOKEN" in simulate.lines()

    await until(has_started, "the simulated marketplaces print their settings")
    return dict(re.findall(r"^export (\S+)=(\S+)$", simulate.lines(), flags=re.MULTILINE))


def delays(*seconds: int) -> list[timedelta]:
    return [timedelta(seconds=second) for second in seconds]


@asynccontextmanager
async def empty_stack(services: Services, folder: Path) -> AsyncIterator[Stack]:
    """A stack on these services, emptied. Its processes end with the context."""
    stack = Stack(
        environment={
            "STOCKHOOK_AMQP_URL": services.amqp_url,
            "STOCKHOOK_DATABASE_URL": services.database_url,
            "STOCKHOOK_INGEST_PORT": str(free_port()),
            "STOCKHOOK_OVOKO_SECRETS": f"{OVOKO_SECRET},{OVOKO_SECRET_OLD}",
            "STOCKHOOK_BUYBACK_TOKENS": f"{BUYBACK_TOKEN},{BUYBACK_TOKEN_OLD}",
            "STOCKHOOK_SEALING_KEYS": Fernet.generate_key().decode(),
            "STOCKHOOK_RETRY_DELAYS": "1,2,3",
            # Most tests look for dead letters in the broker's queues.
            "STOCKHOOK_KEEP_DEAD_LETTERS": "false",
            "STOCKHOOK_SPOOL_PATH": str(folder / "spool.sqlite3"),
        },
        folder=folder,
    )
    if services.management_url is not None:
        stack.environment["STOCKHOOK_MANAGEMENT_URL"] = services.management_url
    await stack.empty()
    try:
        yield stack
    finally:
        stack.close()
