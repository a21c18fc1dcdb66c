"""The environment of an upgrade: broker, database, two ingests, two consumers, a platform and an endpoint."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import asyncpg
import httpx
from cryptography.fernet import Fernet

from deploy.local.ports import choose_ports
from deploy.local.postgres import PostgresNode, PostgresSettings
from deploy.local.process import Spawner
from deploy.local.services import NOTHING_TO_START, Unavailable, find_programs, services_of_ours
from tests.chaos import feed
from tests.chaos.load import CLOCK_TOLERANCE
from tests.support.fault_proxy import FaultProxy
from tests.support.rabbit_cluster import PASSWORD, RabbitCluster, rabbit_cluster
from tests.support.supervised import Supervised
from tests.upgrade.release import Release
from worker.amqp.connection import Broker
from worker.config.settings import PREFIX, Settings
from worker.simulator.buyback_api import SimulatedBuyback
from worker.simulator.buyback_orders import Order, order_of
from worker.simulator.faults import Fault, Kind
from worker.simulator.ovoko_api import OrderReturn, Ovoko, Part
from worker.simulator.router import Simulation

INGESTS = ("ingest-1", "ingest-2")
CONSUMERS = ("consumer-1", "consumer-2")

# All are shorter than an upgrade, so that each retry queue has messages whenever a process is replaced.
RETRY_DELAYS = "2,3,6"

# The capacity of a slot of the simulated platform, large enough for all orders.
PLACES = 100_000


class Control(Protocol):
    """The command line of the broker."""

    def ctl(self, *arguments: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Backend:
    """A broker of one or several nodes, each with its URL, and a database."""

    control: Control
    nodes: Sequence[str]
    database_url: str
    cluster: RabbitCluster | None = None

    @property
    def vhost(self) -> str:
        return urlsplit(self.nodes[0]).path.removeprefix("/")


@contextmanager
def one_node(folder: Path) -> Iterator[Backend]:
    state = folder / "services"
    state.mkdir()
    with services_of_ours(state, durable=False, announce=print) as services:
        if services.rabbitmq is None:
            raise Unavailable("an upgrade needs private services")
        yield Backend(services.rabbitmq, (services.amqp_url,), services.database_url)


@contextmanager
def three_nodes(folder: Path) -> Iterator[Backend]:
    """A cluster of three broker nodes, and one Postgres."""
    programs = find_programs(print)
    if programs is None:
        raise Unavailable(NOTHING_TO_START)
    state = folder / "services"
    state.mkdir()
    with ExitStack() as stack:
        spawner = Spawner()
        stack.callback(spawner.close)
        port = choose_ports(["postgres"], {})["postgres"]
        settings = PostgresSettings(
            state / "postgres", state / "postgres.log", programs.postgres, port, PASSWORD
        )
        database = PostgresNode(settings, spawner=spawner, durable=False)
        stack.callback(database.kill)
        database.start()
        cluster = stack.enter_context(rabbit_cluster(state / "cluster", programs.rabbitmq))
        yield Backend(cluster, [node.url for node in cluster.nodes], database.url, cluster)


class _AnyOrder(dict[str, Order]):
    """The buyback platform knows every requested order."""

    def get(self, order_id: str, _default: object = None) -> Order:
        return self.setdefault(order_id, order_of(order_id, datetime.now(UTC)))


def simulated_marketplaces() -> Simulation:
    simulated_buyback = SimulatedBuyback(places=PLACES)
    simulated_buyback.orders = _AnyOrder(simulated_buyback.orders)
    # The entities of the documented events.
    item = {"part_id": 13, "name": "door", "return_reason": "dent", "price": "9.50", "currency": "EUR"}
    coming_back = OrderReturn.model_validate({"id": 4555, "order_id": 4555, "order_return_items": [item]})
    ovoko = Ovoko(parts={13: Part(id=13, status=0)}, returns={4555: coming_back})
    return Simulation({"buyback": simulated_buyback, "ovoko": ovoko})


@dataclass(slots=True)
class World:
    old: Release
    new: Release
    folder: Path
    backend: Backend
    environment: dict[str, str]
    """The environment of every process and command, without the broker's URL."""
    ops_ports: Mapping[str, int]
    ingest_ports: Mapping[str, int]
    webhook_port: int
    proxies: Mapping[str, Sequence[FaultProxy]]
    """The proxies of each ingest, one per node."""
    spawner: Spawner
    several_hosts: Mapping[str, bool]
    """By the name of a release: whether it supports several hosts in the broker's URL."""
    simulation: Simulation = field(default_factory=simulated_marketplaces)
    processes: dict[str, Supervised] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        """The settings of the current code, without the proxies."""
        environment = {**self.environment, f"{PREFIX}AMQP_URL": self.backend.nodes[0]}
        names = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in environment.items()
            if name.startswith(PREFIX)
        }
        return Settings(**{name: value for name, value in names.items() if name in Settings.model_fields})  # type: ignore[arg-type]  # strings, as the environment has them

    @property
    def broker(self) -> Broker:
        return Broker(self.backend.nodes[0], "test")

    def of(self, release: Release, name: str = "") -> dict[str, str]:
        """The environment of a command or a process of this release."""
        proxies = self.proxies.get(name)
        hosts = [
            urlsplit(node).netloc.rpartition("@")[2]
            if proxies is None
            else f"127.0.0.1:{proxies[place].port}"
            for place, node in enumerate(self.backend.nodes)
        ]
        if not self.several_hosts[release.name]:
            del hosts[1:]
        environment = {**self.environment, f"{PREFIX}AMQP_URL": _with_hosts(self.backend.nodes[0], hosts)}
        if name:
            environment[f"{PREFIX}OPS_PORT"] = str(self.ops_ports[name])
        if name in INGESTS:
            environment[f"{PREFIX}INGEST_PORT"] = str(self.ingest_ports[name])
            environment[f"{PREFIX}SPOOL_PATH"] = str(self.folder / f"{name}.sqlite3")
        return environment

    def put(self, name: str, release: Release, **overrides: str) -> Supervised:
        """Use this release from the next start of the process."""
        environment = self.of(release, name) | {f"{PREFIX}{key}": value for key, value in overrides.items()}
        command = release.command(environment, "ingest" if name in INGESTS else "consume")
        if name not in self.processes:
            log = self.folder / "log" / f"{name}.log"
            self.processes[name] = Supervised(name, command, log, self.spawner, self.ops_ports[name])
        self.processes[name].command = command
        return self.processes[name]

    def queued(self) -> dict[str, int]:
        """Messages per queue, including unacked ones."""
        listed = json.loads(
            self.backend.control.ctl(
                "list_queues", "-p", self.backend.vhost, "name", "messages", "--formatter", "json"
            )
        )
        return {queue["name"]: queue["messages"] for queue in listed}

    async def ready(self, queues: Iterable[str]) -> dict[str, int]:
        """Ready messages of these queues."""
        async with self.broker.connection() as connection:
            depths = await connection.depths(queues)
        return {name: 0 if depth is None else depth.ready for name, depth in depths.items()}

    async def spooled(self, name: str) -> int | None:
        """Events in the spool of an ingest, from its metrics; None while it does not answer."""
        try:
            async with httpx.AsyncClient(timeout=5) as client:
                answer = await client.get(f"http://127.0.0.1:{self.ops_ports[name]}/metrics")
        except httpx.HTTPError:
            return None
        (line,) = (line for line in answer.text.splitlines() if line.startswith("stockhook_spool_events "))
        return int(float(line.split()[-1]))

    async def fetch(self, query: str, *args: object) -> list[Any]:
        connection = await asyncpg.connect(self.backend.database_url)
        try:
            return await connection.fetch(query, *args)
        finally:
            await connection.close()

    async def execute(self, statements: str) -> None:
        connection = await asyncpg.connect(self.backend.database_url)
        try:
            await connection.execute(f"SET lock_timeout = '10s'; {statements}")
        finally:
            await connection.close()

    def platform_fails(self) -> None:
        """Requests to the buyback platform fail and can be repeated later."""
        for endpoint in ("pickup-capabilities", "payment-details"):
            self.simulation.faults.add(Fault(kind=Kind.ERROR, path=endpoint))


def _with_hosts(url: str, hosts: Sequence[str]) -> str:
    parts = urlsplit(url)
    credentials = parts.netloc.rpartition("@")[0]
    return parts._replace(netloc=f"{credentials}@{','.join(hosts)}").geturl()


@contextmanager
def world(folder: Path, backend: Backend, old: Release, new: Release) -> Iterator[World]:
    """Start everything except the product's processes. The caller stops those that it starts."""
    (folder / "log").mkdir()
    with ExitStack() as stack:
        spawner = Spawner()
        stack.callback(spawner.close)
        proxies = {
            name: [stack.enter_context(FaultProxy.before(node)) for node in backend.nodes] for name in INGESTS
        }
        ports = choose_ports((*INGESTS, *CONSUMERS, "webhook", *(f"ops of {name}" for name in INGESTS)), {})
        environment = _environment(backend, ports["webhook"])
        yield World(
            old=old,
            new=new,
            folder=folder,
            backend=backend,
            environment=environment,
            ops_ports={
                **{name: ports[f"ops of {name}"] for name in INGESTS},
                **{name: ports[name] for name in CONSUMERS},
            },
            ingest_ports={name: ports[name] for name in INGESTS},
            webhook_port=ports["webhook"],
            proxies=proxies,
            spawner=spawner,
            several_hosts={
                release.name: len(backend.nodes) > 1 and _understands_several_hosts(release, environment)
                for release in (old, new)
            },
        )


def _understands_several_hosts(release: Release, environment: Mapping[str, str]) -> bool:
    url = "amqp://user:password@127.0.0.1:1,127.0.0.1:2/vhost"
    result = release.run({**environment, f"{PREFIX}AMQP_URL": url}, "topology", "--definitions")
    return result.returncode == 0


def _environment(backend: Backend, webhook_port: int) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {
        **others,
        f"{PREFIX}DATABASE_URL": backend.database_url,
        f"{PREFIX}OVOKO_SECRETS": "upgrade-ovoko-secret",
        f"{PREFIX}BUYBACK_TOKENS": "upgrade-buyback-token",
        f"{PREFIX}SEALING_KEYS": Fernet.generate_key().decode(),
        f"{PREFIX}RETRY_DELAYS": RETRY_DELAYS,
        f"{PREFIX}CLOCK_TOLERANCE": str(CLOCK_TOLERANCE.total_seconds()),
        # Long, so that a late confirm on a busy machine does not cause a second copy from the spool.
        f"{PREFIX}PUBLISH_TIMEOUT": "20",
        f"{PREFIX}LOG_FORMAT": "json",
        f"{PREFIX}REREQUEST_PICKUP": "first_slot",
        f"{PREFIX}CHANGES_PRIVATE_TARGETS": "true",
        f"{PREFIX}CHANGES_WEBHOOKS": json.dumps([feed.subscriber(webhook_port)]),
    }
