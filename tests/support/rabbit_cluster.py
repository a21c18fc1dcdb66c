"""A cluster of RabbitMQ nodes on loopback addresses, for tests of faults.

The nodes' distribution connections run between 127.0.0.1, 127.0.0.2 and so on, so that a packet filter can
separate any two of them. All of them serve AMQP and management on 127.0.0.1.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local import services
from deploy.local.packages import DownloadFailed
from deploy.local.ports import LOOPBACK, choose_ports
from deploy.local.process import Daemon, Spawner
from deploy.local.programs import RabbitPrograms
from deploy.local.rabbitmq import (
    PORT_NAMES,
    USER,
    VHOST,
    ControlFailed,
    RabbitNode,
    RabbitSettings,
    epmd_daemon,
)

PASSWORD = "the-password-of-all-nodes"
SIZE = 3
# Three nodes start concurrently, perhaps on a busy machine with two cores.
START_SECONDS = 600
MEMBERS_SECONDS = 300
LOOK_SECONDS = 0.3
ANSWER_SECONDS = 10

# The cluster has the recommended configuration, except for the limit of free disk.
RECOMMENDED = services.CHECKOUT / "deploy/rabbitmq/stockhook.conf"
CONFIGURATION = """
disk_free_limit.absolute = 200MB
cluster_formation.peer_discovery_backend = classic_config
"""


class NotFormed(Exception):
    """The nodes did not form one cluster, or a queue did not recover its members."""


@dataclass(frozen=True, slots=True)
class QueueMembers:
    """The members of a quorum queue, by node name. `leader` is empty while there is none."""

    leader: str
    members: frozenset[str]
    online: frozenset[str]


@dataclass(slots=True)
class RabbitCluster:
    nodes: tuple[RabbitNode, ...]
    epmd: Daemon

    @property
    def url(self) -> str:
        """All hosts in one URL; see STOCKHOOK_AMQP_URL."""
        return self.url_of(self.nodes)

    def url_of(self, nodes: Sequence[RabbitNode]) -> str:
        hosts = ",".join(f"{LOOPBACK}:{node.settings.ports['amqp']}" for node in nodes)
        return f"amqp://{USER}:{PASSWORD}@{hosts}/{VHOST}"

    @property
    def management_url(self) -> str:
        hosts = ",".join(f"{LOOPBACK}:{node.settings.ports['management']}" for node in self.nodes)
        return f"http://{USER}:{PASSWORD}@{hosts}"

    def node(self, name: str) -> RabbitNode:
        return next(node for node in self.nodes if node.settings.node_name == name)

    def start(self, nodes: Sequence[RabbitNode] | None = None) -> None:
        """Start these nodes (by default all) concurrently; return when each accepts AMQP.

        Raises:
            StartFailed
        """
        chosen = self.nodes if nodes is None else nodes
        for node in chosen:
            node.spawn()
        for node in chosen:
            node.wait_until_ready(START_SECONDS)

    def stop(self, nodes: Sequence[RabbitNode] | None = None) -> None:
        """Stop them gracefully and concurrently."""
        chosen = self.nodes if nodes is None else nodes
        with ThreadPoolExecutor(len(chosen)) as threads:
            list(threads.map(RabbitNode.stop, chosen))

    def kill(self, nodes: Sequence[RabbitNode] | None = None) -> None:
        """Kill -9."""
        for node in self.nodes if nodes is None else nodes:
            node.kill()

    def ctl(self, *arguments: str) -> str:
        """The output of rabbitmqctl on the first node where it succeeds; raises ControlFailed."""
        failure = ControlFailed("the cluster has no node")
        for node in self.nodes:
            try:
                return node.ctl(*arguments)
            except ControlFailed as error:
                failure = error
        raise failure

    def _query(self, path: str) -> list[dict[str, Any]]:
        """The management API's answer, from the first node that responds: cheap, but some seconds old."""
        failure = ControlFailed("the cluster has no node")
        for node in self.nodes:
            try:
                answer = httpx.get(f"{node.management_url}/api/{path}", timeout=ANSWER_SECONDS, verify=False)
                answer.raise_for_status()
            except httpx.HTTPError as error:
                failure = ControlFailed(f"management of {node.settings.node_name}: {error!r}")
            else:
                rows: list[dict[str, Any]] = answer.json()
                return rows
        raise failure

    def queues(self) -> dict[str, QueueMembers]:
        """All quorum queues by name; raises ControlFailed."""
        return {
            queue["name"]: QueueMembers(
                queue.get("leader", ""),
                frozenset(queue.get("members", ())),
                frozenset(queue.get("online", ())),
            )
            for queue in self._query(f"queues/{VHOST}")
            if queue.get("arguments", {}).get("x-queue-type") == "quorum"
        }

    def leader(self, queue: str) -> RabbitNode | None:
        """The node that leads this queue; None while no node does."""
        name = self.queues()[queue].leader
        return self.node(name) if name else None

    def wait_until_formed(self, seconds: float = START_SECONDS) -> None:
        """Wait until all nodes run in one cluster; raises NotFormed."""

        def is_formed() -> bool:
            return sum(bool(node["running"]) for node in self._query("nodes")) == len(self.nodes)

        _wait(is_formed, seconds, "all nodes run in one cluster")

    def wait_until_members_online(self, seconds: float = MEMBERS_SECONDS) -> None:
        """Wait until each quorum queue has a leader, and an online member on every node; raises NotFormed."""

        def all_online() -> bool:
            return all(
                queue.leader and len(queue.online) == len(self.nodes) for queue in self.queues().values()
            )

        _wait(all_online, seconds, "each queue has a leader and all members online")


def _wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while True:
        failure = ""
        try:
            if condition():
                return
        except ControlFailed as error:
            failure = f" ({error})"
        if time.monotonic() > end:
            raise NotFormed(f"not within {seconds:.0f} s: {what}{failure}")
        time.sleep(LOOK_SECONDS)


def rabbit_programs() -> RabbitPrograms:
    """The programs of the tests' private RabbitMQ; without one the test is skipped."""
    try:
        programs = services.find_programs(print)
    except DownloadFailed as failure:
        pytest.skip(f"needs a private RabbitMQ: {failure}")
    if programs is None:
        pytest.skip("needs a private RabbitMQ")
    return programs.rabbitmq


@contextmanager
def rabbit_cluster(
    folder: Path, programs: RabbitPrograms, *, size: int = SIZE, further_lines: str = ""
) -> Iterator[RabbitCluster]:
    """Run all nodes as one cluster without queues, with their data in this folder."""
    spawner = Spawner()
    cookie_folder = folder / "cookie"
    cookie_folder.mkdir(parents=True)
    cookie = cookie_folder / ".erlang.cookie"
    cookie.touch(mode=0o600)
    cookie.write_text(secrets.token_hex(10))
    cookie.chmod(0o400)
    names = [f"stockhook{number}@127.0.0.{number}" for number in range(1, size + 1)]
    peers = "".join(
        f"cluster_formation.classic_config.nodes.{number} = {name}\n" for number, name in enumerate(names, 1)
    )
    lines = RECOMMENDED.read_text() + CONFIGURATION + peers
    shared = choose_ports(["epmd"], {})
    taken = set(shared.values())
    settings = []
    for name in names:
        ports = choose_ports([port for port in PORT_NAMES if port != "epmd"], {}, taken=taken) | shared
        taken |= set(ports.values())
        node_folder = folder / name
        node_folder.mkdir()
        settings.append(
            RabbitSettings(
                folder=node_folder,
                log=folder / f"{name}.log",
                programs=programs,
                ports=ports,
                password=PASSWORD,
                further_lines=lines + further_lines,
                node_name=name,
                cookie_folder=cookie_folder,
            )
        )
    epmd = epmd_daemon(settings[0], *(one.address for one in settings), spawner=spawner)
    nodes = tuple(RabbitNode(one, spawner=spawner, durable=True, epmd=epmd) for one in settings)
    cluster = RabbitCluster(nodes, epmd)
    try:
        cluster.start()
        cluster.wait_until_formed()
        yield cluster
    finally:
        cluster.kill()
        epmd.kill()
        spawner.close()
