"""RabbitMQ and Postgres for one run: from the environment, private, or in containers."""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deploy.local import compose, packages, postgres, rabbitmq
from deploy.local.ports import choose_and_remember
from deploy.local.process import Spawner, sweep
from deploy.local.programs import (
    PostgresPrograms,
    RabbitPrograms,
    installed_postgres,
    installed_rabbitmq,
)
from deploy.local.secrets import remembered_secrets

CHECKOUT = Path(__file__).resolve().parents[2]
DEV = CHECKOUT / ".dev"
DEMO = DEV / "demo"
PACKAGES = DEV / "packages"
# How long the services of an earlier, killed run may take to save their data.
SWEEP_SECONDS = 15

NOTHING_TO_START = (
    "RabbitMQ and Postgres were not found, and cannot be downloaded: install rabbitmq-server and postgresql, "
    "or start Docker, or set STOCKHOOK_AMQP_URL and STOCKHOOK_DATABASE_URL to existing services"
)

Announce = Callable[[str], None]


class Unavailable(Exception):
    """The services cannot be started on this machine; the message says what to do."""


class AlreadyRunning(Exception):
    """Another run uses this state folder."""


class Node(Protocol):
    """One service. Tests kill and freeze it; it keeps its port and its data."""

    @property
    def url(self) -> str: ...
    def pids(self) -> list[int]: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class BrokerNode(Node, Protocol):
    def ctl(self, *arguments: str) -> str:
        """The output of rabbitmqctl; raises ControlFailed."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    amqp_url: str
    database_url: str
    rabbitmq: BrokerNode | None = None
    """None for a service from the environment, which must not be stopped."""
    postgres: Node | None = None
    management_url: str | None = None
    """RabbitMQ's management API and dashboard, with user and password."""


@dataclass(frozen=True, slots=True)
class Programs:
    rabbitmq: RabbitPrograms
    postgres: PostgresPrograms


@contextmanager
def local_services(state: Path, *, durable: bool, announce: Announce) -> Iterator[Services]:
    """Both services, ready; stopped at the end. Without `durable`, their data is then deleted.

    Raises Unavailable, AlreadyRunning, StartFailed or DownloadFailed.
    """
    if (given := given_services(os.environ)) is not None:
        announce("using RabbitMQ and Postgres from the environment")
        yield given
        return
    state = state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    with locked(state), services_of_ours(state, durable=durable, announce=announce) as services:
        yield services


def given_services(environment: Mapping[str, str]) -> Services | None:
    amqp_url = environment.get("STOCKHOOK_AMQP_URL")
    database_url = environment.get("STOCKHOOK_DATABASE_URL")
    if amqp_url and database_url:
        return Services(amqp_url, database_url)
    if amqp_url or database_url:
        raise Unavailable("set both STOCKHOOK_AMQP_URL and STOCKHOOK_DATABASE_URL, or neither")
    return None


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """A lock for one run at a time, which the system releases however that run ends."""
    with (state / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise AlreadyRunning(
                f"already running here, as process {lock.read().strip() or 'unknown'}"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def is_running(state: Path) -> bool:
    if not state.exists():
        return False
    try:
        with locked(state):
            return False
    except AlreadyRunning:
        return True


@contextmanager
def services_of_ours(state: Path, *, durable: bool, announce: Announce) -> Iterator[Services]:
    programs = find_programs_or_none(announce)
    if programs is not None:
        with private_services(state, programs, durable=durable, announce=announce) as services:
            yield services
    elif compose.docker_works():
        with container_services(state, durable=durable, announce=announce) as services:
            yield services
    else:
        raise Unavailable(NOTHING_TO_START)


def find_programs_or_none(announce: Announce) -> Programs | None:
    """None if there are none, or if the download failed and Docker can replace them."""
    try:
        return find_programs(announce)
    except packages.DownloadFailed as failure:
        if not compose.docker_works():
            raise
        announce(str(failure))
        return None


def find_programs(announce: Announce) -> Programs | None:
    """Installed programs, otherwise from apt. None if neither exists."""
    if sys.platform != "linux":
        return None
    broker, database = installed_rabbitmq(), installed_postgres()
    if (broker is None or database is None) and not packages.apt_is_here():
        return None
    return Programs(
        broker or packages.downloaded_rabbitmq(PACKAGES, announce),
        database or packages.downloaded_postgres(PACKAGES, announce),
    )


@contextmanager
def private_services(
    state: Path, programs: Programs, *, durable: bool, announce: Announce
) -> Iterator[Services]:
    logs = state / "log"
    logs.mkdir(exist_ok=True)
    for record in ("rabbitmq/node.pid", "rabbitmq/epmd.pid", "postgres.pid"):
        sweep(state / record, SWEEP_SECONDS if durable else 0)
    with ExitStack() as cleanup:
        if not durable:
            forget_data(state)
            cleanup.callback(forget_data, state)
        spawner = Spawner()
        cleanup.callback(spawner.close)
        broker, database = make_nodes(state, programs, spawner, durable=durable)
        announce("starting RabbitMQ and Postgres")
        cleanup.callback(database.stop)
        cleanup.callback(broker.stop)
        broker.spawn()
        database.start()
        broker.wait_until_ready()
        yield Services(broker.url, database.url, broker, database, broker.management_url)


def make_nodes(
    state: Path, programs: Programs, spawner: Spawner, *, durable: bool
) -> tuple[rabbitmq.RabbitNode, postgres.PostgresNode]:
    passwords = remembered_secrets(state / "secrets.json")
    ports = choose_and_remember(state / "ports.json", (*rabbitmq.PORT_NAMES, *postgres.PORT_NAMES))
    broker = rabbitmq.RabbitSettings(
        folder=state / "rabbitmq",
        log=fresh_log(state / "log/rabbitmq.log"),
        programs=programs.rabbitmq,
        ports=ports,
        password=passwords["rabbitmq_password"],
    )
    database = postgres.PostgresSettings(
        folder=state / "postgres",
        log=fresh_log(state / "log/postgres.log"),
        programs=programs.postgres,
        port=ports["postgres"],
        password=passwords["postgres_password"],
    )
    return (
        rabbitmq.RabbitNode(broker, spawner=spawner, durable=durable),
        postgres.PostgresNode(database, spawner=spawner, durable=durable),
    )


def fresh_log(path: Path) -> Path:
    """An empty log; the log of the run before gets another name."""
    if path.exists():
        path.replace(path.with_suffix(".log.1"))
    path.touch()
    return path


def forget_data(state: Path) -> None:
    for folder in ("rabbitmq", "postgres"):
        shutil.rmtree(state / folder, ignore_errors=True)


@contextmanager
def container_services(state: Path, *, durable: bool, announce: Announce) -> Iterator[Services]:
    passwords = remembered_secrets(state / "secrets.json")
    project = compose.ComposeProject(
        name=compose.project_name(state),
        ports=choose_and_remember(state / "ports.json", compose.PORT_NAMES),
        rabbitmq_password=passwords["rabbitmq_password"],
        postgres_password=passwords["postgres_password"],
    )
    announce("starting RabbitMQ and Postgres with docker compose (the first time it downloads two images)")
    try:
        project.up()
        yield Services(
            project.amqp_url,
            project.database_url,
            compose.ComposeService(project, "rabbitmq", project.amqp_url),
            compose.ComposeService(project, "postgres", project.database_url),
        )
    finally:
        project.down(durable=durable)
