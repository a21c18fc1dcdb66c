"""The environment of a run: services, proxies, disks, and the processes of the product."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from cryptography.fernet import Fernet

from deploy.local.ports import choose_ports
from deploy.local.process import Command, Spawner
from deploy.local.services import CHECKOUT, BrokerNode, Services, Unavailable, services_of_ours
from tests.chaos import feed
from tests.chaos.fault_injector import FaultInjector, SingleNodeInjector
from tests.chaos.faults import RETRY_DELAYS, Strike, Target, deck, plan
from tests.chaos.load import CLOCK_TOLERANCE
from tests.chaos.report import Report
from tests.chaos.small_disk import NoSmallDisk, SmallDisk, small_disk
from tests.chaos.verdict import observe_attempts, run_command
from tests.support.amqp_frames import AmqpWatch
from tests.support.fault_proxy import FaultProxy
from tests.support.postgres_messages import PostgresWatch
from tests.support.protocol_watch import Watch
from tests.support.rabbit_cluster import RabbitCluster
from tests.support.supervised import Supervised
from worker.amqp.connection import Broker
from worker.config.settings import PREFIX, Settings

RECOVERY_SECONDS = 60.0
# Three nodes start concurrently on this machine.
CLUSTER_RECOVERY_SECONDS = 300.0

# Runs of at least this length have strikes that last longer than a heartbeat's timeout.
LONG_RUN_SECONDS = 120

SPOOL_MEGABYTES = 32
# The size of the small disk for tables: the maximum per event, and the initial size.
KILOBYTES_PER_EVENT = 8
DATABASE_MEGABYTES = 192

Say = Callable[[str], None]


class RunFailed(Exception):
    """The run could not finish. The text names the condition that did not occur."""


@dataclass(frozen=True, slots=True)
class Options:
    seed: int
    seconds: float
    rate: float
    keep: bool
    cluster: int = 1
    """The number of broker nodes; with more than one, Postgres is a pair."""
    is_brief: bool = False
    """Inject each main fault of a cluster once, regardless of the duration."""

    @property
    def is_cluster(self) -> bool:
        return self.cluster > 1

    @property
    def recovery_seconds(self) -> float:
        """The limit of each recovery; the report has the actual times."""
        return CLUSTER_RECOVERY_SECONDS if self.is_cluster else RECOVERY_SECONDS

    @property
    def is_long(self) -> bool:
        return self.seconds >= LONG_RUN_SECONDS


@dataclass(slots=True)
class World:
    """Running services, processes and proxies."""

    broker: BrokerNode | RabbitCluster
    direct: dict[str, str]
    """The environment of the product without the proxies."""
    processes: dict[Target, Supervised]
    injector: FaultInjector
    strikes: Iterator[Strike]
    webhook_port: int

    @property
    def database_url(self) -> str:
        return self.settings.database_url.get_secret_value()

    @property
    def amqp(self) -> Broker:
        return Broker(self.settings.amqp_url.get_secret_value(), "chaos")

    @property
    def settings(self) -> Settings:
        names = {name.removeprefix(PREFIX).lower(): value for name, value in self.direct.items()}
        return Settings(**{name: value for name, value in names.items() if name in Settings.model_fields})  # type: ignore[arg-type]  # strings, as the environment has them


@asynccontextmanager
async def world(folder: Path, options: Options, report: Report, say: Say) -> AsyncIterator[World]:
    """Start services, proxies and disks, but not the product's processes."""
    state = folder / "state"
    state.mkdir(mode=0o755)
    (folder / "log").mkdir()
    with ExitStack() as stack:
        disks = dict(_disks(stack, folder, options, report))
        services = stack.enter_context(services_of_ours(state, durable=False, announce=say))
        if services.rabbitmq is None or services.postgres is None:
            raise Unavailable("the chaos run needs private services")
        proxies = {
            target: stack.enter_context(FaultProxy.before(url, watch=watch, seed=options.seed + number))
            for number, (target, url, watch) in enumerate(_links(services))
        }
        spawner = Spawner()
        stack.callback(spawner.close)
        webhook_port = choose_ports(["webhook"], {})["webhook"]
        direct = environment(services.amqp_url, services.database_url, folder, webhook_port)
        if Target.POSTGRES in disks:
            await _put_tables_on(disks[Target.POSTGRES], services)
        await prepare(direct)
        database_url = proxies[Target.CONSUMERS_TO_POSTGRES].via(services.database_url)
        urls = {
            target: (proxies[target].via(services.amqp_url), database_url)
            for target in (Target.INGEST_TO_BROKER, Target.CONSUMERS_TO_BROKER)
        }
        processes = supervised(
            spawner,
            folder,
            direct,
            of_ingest=urls[Target.INGEST_TO_BROKER],
            of_consumers=urls[Target.CONSUMERS_TO_BROKER],
        )
        injector = SingleNodeInjector(
            processes=processes,
            proxies=proxies,
            broker=services.rabbitmq,
            postgres=services.postgres,
            database_url=services.database_url,
            disks=disks,
        )
        cards = deck(long=options.is_long, disks=len(disks) == 2)
        strikes = plan(options.seed, cards, long=options.is_long)
        yield World(services.rabbitmq, direct, processes, injector, strikes, webhook_port)


def _disks(
    stack: ExitStack, folder: Path, options: Options, report: Report
) -> Iterator[tuple[Target, SmallDisk]]:
    database_megabytes = DATABASE_MEGABYTES + int(options.rate * options.seconds * KILOBYTES_PER_EVENT / 1024)
    sizes = {Target.SPOOL: SPOOL_MEGABYTES, Target.POSTGRES: database_megabytes}
    for target, megabytes in sizes.items():
        try:
            yield target, stack.enter_context(small_disk(folder / f"{target}-disk", megabytes))
        except NoSmallDisk as why:
            report.notes.append(f"no full disk of {target}: {why}")


def _links(services: Services) -> list[tuple[Target, str, Callable[[], Watch]]]:
    return [
        (Target.INGEST_TO_BROKER, services.amqp_url, AmqpWatch),
        (Target.CONSUMERS_TO_BROKER, services.amqp_url, AmqpWatch),
        (Target.CONSUMERS_TO_POSTGRES, services.database_url, PostgresWatch),
    ]


def environment(amqp_url: str, database_url: str, folder: Path, webhook_port: int) -> dict[str, str]:
    """The environment of the product, without the proxies."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {
        **others,
        f"{PREFIX}AMQP_URL": amqp_url,
        f"{PREFIX}DATABASE_URL": database_url,
        f"{PREFIX}INGEST_PORT": str(choose_ports(["ingest"], {})["ingest"]),
        f"{PREFIX}OVOKO_SECRETS": "chaos-ovoko-secret",
        f"{PREFIX}BUYBACK_TOKENS": "chaos-buyback-token",
        f"{PREFIX}SEALING_KEYS": Fernet.generate_key().decode(),
        f"{PREFIX}RETRY_DELAYS": RETRY_DELAYS,
        f"{PREFIX}CLOCK_TOLERANCE": str(CLOCK_TOLERANCE.total_seconds()),
        # The verdict reads the queue of the quarantine.
        f"{PREFIX}KEEP_DEAD_LETTERS": "false",
        f"{PREFIX}SPOOL_PATH": str(folder / f"{Target.SPOOL}-disk" / "spool.sqlite"),
        f"{PREFIX}LOG_FORMAT": "json",
        f"{PREFIX}CHANGES_PRIVATE_TARGETS": "true",
        f"{PREFIX}CHANGES_WEBHOOKS": json.dumps([feed.subscriber(webhook_port)]),
    }


async def _put_tables_on(disk: SmallDisk, services: Services) -> None:
    location = disk.folder / "tables"
    location.mkdir()
    assert services.postgres is not None
    owner = Path(f"/proc/{services.postgres.pids()[0]}").stat()
    os.chown(location, owner.st_uid, owner.st_gid)
    connection = await asyncpg.connect(services.database_url)
    await connection.execute(f"CREATE TABLESPACE small LOCATION '{location}'")
    name = urlsplit(services.database_url).path.removeprefix("/")
    await connection.execute(f"ALTER DATABASE {name} SET default_tablespace = small")
    await connection.close()


async def prepare(direct: Mapping[str, str]) -> None:
    """Migrate the database, and declare the topology."""
    for command in ("migrate", "topology"):
        done = await asyncio.to_thread(run_command, direct, command)
        if done.returncode != 0:
            raise RunFailed(f"`stockhook {command}` ended with {done.returncode}: {done.stderr}")
    broker = Broker(direct[f"{PREFIX}AMQP_URL"], "chaos")
    await feed.prepare(broker, direct[f"{PREFIX}DATABASE_URL"])
    await observe_attempts(broker, [timedelta(seconds=int(step)) for step in RETRY_DELAYS.split(",")])


def supervised(
    spawner: Spawner,
    folder: Path,
    direct: Mapping[str, str],
    *,
    of_ingest: tuple[str, str],
    of_consumers: tuple[str, str],
) -> dict[Target, Supervised]:
    """The processes of the product, with the URLs of broker and database for each."""
    ports = choose_ports((Target.INGEST, Target.FIRST_CONSUMER, Target.SECOND_CONSUMER), {})
    made = {}
    for target, port in ports.items():
        is_ingest = target == Target.INGEST
        amqp_url, database_url = of_ingest if is_ingest else of_consumers
        environment = {
            **direct,
            f"{PREFIX}AMQP_URL": amqp_url,
            f"{PREFIX}DATABASE_URL": database_url,
            f"{PREFIX}OPS_PORT": str(port),
        }
        command = Command(
            (sys.executable, "-m", "worker", "ingest" if is_ingest else "consume"),
            environment,
            folder=CHECKOUT,
        )
        log = folder / "log" / f"{target}.log"
        made[Target(target)] = Supervised(target, command, log, spawner, port)
    return made
