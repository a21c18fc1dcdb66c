"""Private services, the contestants' processes, and an equal start for each run."""

import asyncio
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx
from cryptography.fernet import Fernet

from consumers.registry import FAMILIES
from deploy.local.ports import choose_ports
from deploy.local.process import Spawner
from deploy.local.services import (
    CHECKOUT,
    DEV,
    Announce,
    Services,
    Unavailable,
    forget_data,
    services_of_ours,
)
from tests.bench.broker import BrokerLine, broker_line
from tests.bench.contestants.applying import TABLES
from tests.bench.lineup import Contestant
from tests.bench.processes import Failed, Running, start, with_descendants
from tests.bench.usage import CpuCost
from worker.amqp.connection import Broker
from worker.amqp.queue_set import main_queue
from worker.amqp.topology import RETURN, topology
from worker.config.settings import PREFIX, Settings
from worker.postgres.migrations import migrate
from worker.postgres.pool import Database

READY_SECONDS = 60.0
CONSUMER, POSTGRES = "consumer", "Postgres"
OVOKO_SECRET = "bench-ovoko-secret"
BUYBACK_TOKEN = "bench-buyback-token"

# Share of the machine's memory. A backlog that is published within a second stays in the broker's memory
# until its write-ahead log rolls over: an alarm would stop publishers during a measurement.
BROKER_MEMORY_SHARE = "0.6"

# A private queue with copies of all messages for a retry queue or the dead letters.
RETRIED = "bench.retried"

# All tables except those that migrations fill.
OUR_TABLES = """
SELECT quote_ident(relname)
FROM pg_class
WHERE relkind IN ('r', 'p') AND NOT relispartition
    AND relnamespace = 'public'::regnamespace AND relname NOT IN ('schema_migrations', 'change_locks')
"""


@dataclass(slots=True)
class World:
    services: Services
    folder: Path
    spawner: Spawner
    database: "asyncpg.Connection[asyncpg.Record]"
    line: BrokerLine
    delays: str
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _sealing_key: str = field(default_factory=lambda: Fernet.generate_key().decode())

    @property
    def settings(self) -> Settings:
        """The settings of the product's processes."""
        names = {name.removeprefix(PREFIX).lower(): value for name, value in self._product().items()}
        return Settings(**names)  # type: ignore[arg-type]  # strings, as the environment has them

    @property
    def queues(self) -> list[str]:
        return [queue.name for queue in topology(self.settings.delays).queues]

    async def retried(self) -> int:
        """The number of messages sent to a retry queue or to the dead letters since `empty`."""
        return await self.line.ready([RETRIED])

    def broker_pids(self) -> list[int]:
        assert self.services.rabbitmq is not None
        return with_descendants(self.services.rabbitmq.pids())

    def postgres_pids(self) -> list[int]:
        assert self.services.postgres is not None
        return with_descendants(self.services.postgres.pids())

    async def cpu_cost(self, consumer: Running) -> CpuCost:
        """Of the consumer, and of Postgres without the benchmark's own session."""
        own = await self.database.fetchval("SELECT pg_backend_pid()")
        return CpuCost(
            {
                CONSUMER: lambda: consumer.pids,
                POSTGRES: lambda: [pid for pid in self.postgres_pids() if pid != own],
            }
        )

    async def prepare(self) -> None:
        """Declare the topology and migrate the database, once."""
        database = Database(self.services.database_url, 1, "bench")
        await migrate(database)
        await database.close()
        await self.database.execute(TABLES)
        await self.declare()

    async def declare(self) -> None:
        """Declare the topology."""
        async with Broker(self.services.amqp_url, "bench").connection() as connection:
            await (await connection.channel()).ensure_topology(topology(self.settings.delays))
        families = {main_queue(family) for family in FAMILIES}
        bound = [binding for binding in topology(self.settings.delays).bindings if binding.exchange == RETURN]
        steps = [binding.routing_key for binding in bound if binding.queue not in families]
        await self.line.listen_in(RETRIED, RETURN, steps)

    async def empty(self) -> None:
        """Empty all queues and tables, and vacuum, so that Postgres does not do it during a measurement."""
        await self.line.purge([*self.queues, RETRIED])
        tables = [row[0] for row in await self.database.fetch(OUR_TABLES)]
        await self.database.execute(f"TRUNCATE {', '.join(tables)}")
        await self.settle()

    async def settle(self) -> None:
        await self.database.execute("CHECKPOINT")
        await self.database.execute("VACUUM ANALYZE")

    async def count(self, table: str) -> int:
        return int(await self.database.fetchval(f"SELECT count(*) FROM {table}"))

    @asynccontextmanager
    async def running(
        self, contestant: Contestant, families: Sequence[str] = (), *, port: int = 0, **more: object
    ) -> AsyncIterator[Running]:
        """A contestant's process; one with a port has reported ready on `/readyz`."""
        log = self.folder / f"{next(self._numbers):04}-{contestant.name.replace(' ', '-')}.log"
        argv, environment = contestant.command(self.services, families, port=port, **more)
        product = self._product(port) if contestant.is_product else {}
        others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        running = start(self.spawner, contestant.name, argv, {**others, **product, **environment}, log)
        try:
            if port:
                is_encrypted = f"{PREFIX}INGEST_CERTIFICATE_FILE" in environment
                await self._ready(running, f"{'https' if is_encrypted else 'http'}://127.0.0.1:{port}/readyz")
            yield running
        finally:
            await running.stop()

    async def finished(self, *arguments: str) -> str:
        """The output of a command of the product.

        Raises:
            Failed: Its exit code was neither 0 nor 1 (it reported differences).
        """
        others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "worker", *arguments),
            env={**others, **self._product()},
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        printed, said = await process.communicate()
        if process.returncode not in (0, 1):
            raise Failed(f"{' '.join(arguments)} ended with {process.returncode}:\n{said.decode()[-2000:]}")
        return printed.decode()

    def _product(self, port: int = 8080) -> dict[str, str]:
        ops_port = choose_ports(["ops"], {})["ops"]
        return {
            f"{PREFIX}AMQP_URL": self.services.amqp_url,
            f"{PREFIX}DATABASE_URL": self.services.database_url,
            f"{PREFIX}INGEST_PORT": str(port or 8080),
            f"{PREFIX}OPS_PORT": str(ops_port),
            f"{PREFIX}OVOKO_SECRETS": OVOKO_SECRET,
            f"{PREFIX}BUYBACK_TOKENS": BUYBACK_TOKEN,
            f"{PREFIX}SEALING_KEYS": self._sealing_key,
            f"{PREFIX}RETRY_DELAYS": self.delays,
            # A long run sends more events than a generated marketplace has until today.
            f"{PREFIX}CLOCK_TOLERANCE": str(100 * 365 * 86_400),
            f"{PREFIX}SPOOL_PATH": str(self.folder / "spool.sqlite3"),
            f"{PREFIX}LOG_FORMAT": "json",
        }

    async def _ready(self, running: Running, url: str) -> None:
        async with asyncio.timeout(READY_SECONDS), httpx.AsyncClient(verify=False) as client:
            while True:
                running.check()
                try:
                    answer = await client.get(url)
                    if answer.status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)


def new_folder() -> Path:
    """A folder for services and logs, on the checkout's disk, because a temporary folder may be in memory."""
    parent = DEV / "bench"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent))
    # Postgres runs as another user if we are root.
    folder.chmod(0o711)
    return folder


@contextmanager
def services(folder: Path, announce: Announce) -> Iterator[Services]:
    """RabbitMQ and Postgres that sync to disk; their data is deleted afterwards.

    Raises:
        Unavailable: Private services cannot be started on this machine.
    """
    state = folder / "services"
    state.mkdir(mode=0o755)
    try:
        with services_of_ours(state, durable=True, announce=announce) as started:
            if started.rabbitmq is None or started.postgres is None:
                raise Unavailable("the benchmark needs services of its own")
            started.rabbitmq.ctl("set_vm_memory_high_watermark", BROKER_MEMORY_SHARE)
            asyncio.run(_keep_commit_times(started))
            yield started
    finally:
        forget_data(state)


async def _keep_commit_times(started: Services) -> None:
    """Record the commit time of each row; the cost is negligible."""
    assert started.postgres is not None
    connection = await asyncpg.connect(started.database_url)
    await connection.execute("ALTER SYSTEM SET track_commit_timestamp = on")
    await connection.close()
    await asyncio.to_thread(started.postgres.stop)
    await asyncio.to_thread(started.postgres.start)


@asynccontextmanager
async def world(started: Services, folder: Path, delays: str) -> AsyncIterator[World]:
    spawner = Spawner()
    database = await asyncpg.connect(started.database_url)
    try:
        async with broker_line(started.amqp_url) as line:
            made = World(started, folder, spawner, database, line, delays)
            await made.prepare()
            yield made
    finally:
        await database.close()
        spawner.close()


def free_port() -> int:
    return choose_ports(["bench"], {})["bench"]
