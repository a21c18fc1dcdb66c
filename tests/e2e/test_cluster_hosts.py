"""A cluster of three nodes: connections leave a node that is killed, and doctor names it."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from consumers.registry import FAMILIES
from deploy.local.rabbitmq import RabbitNode
from tests.support.events import order_created
from tests.support.rabbit_cluster import RabbitCluster, rabbit_cluster, rabbit_programs
from tests.support.stack import OVOKO_SECRET, Stack, Worker, until
from worker.amqp.hosts import hosts_of_url

# Kills the nodes one by one, which takes minutes (`make test-long`).
pytestmark = pytest.mark.long

WEBHOOKS_PER_SECOND = 100


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitCluster]:
    """The nodes are started once: each test begins and ends with all of them running."""
    with rabbit_cluster(tmp_path_factory.mktemp("cluster"), rabbit_programs()) as made:
        yield made


class Connections:
    """The connections of publishers and consumers of `stockhook run`, from its log."""

    def __init__(self, running: Worker) -> None:
        self._running = running

    def opened(self) -> list[tuple[str, str, datetime]]:
        """Each opened connection: its owner, host and time."""
        lines = [json.loads(line) for line in self._running.lines().splitlines() if line.startswith("{")]
        return [
            (
                line.get("role") or line["subscription"],
                line["host"],
                datetime.fromisoformat(line["timestamp"]),
            )
            for line in lines
            if line["event"] in ("publisher.connected", "consumer.started")
        ]

    def hosts(self) -> dict[str, str]:
        """The last host of each connection."""
        return {owner: host for owner, host, _ in self.opened()}

    async def seconds_until_away_from(self, host: str, since: datetime) -> dict[str, float]:
        """The time from `since` until each connection to the host was replaced by one to another host."""
        left = {owner for owner, at, _ in self.opened() if self.hosts()[owner] == host}
        assert left, f"nothing was connected to {host}"

        def moved() -> dict[str, float]:
            later = [one for one in self.opened() if one[2] > since and one[1] != host and one[0] in left]
            return {owner: (at - since).total_seconds() for owner, _, at in reversed(later)}

        async def all_moved() -> bool:
            return moved().keys() == left

        await until(all_moved, f"{left} left {host}", 60)
        return moved()


async def send(stack: Stack, ending: asyncio.Event) -> int:
    """Post orders at a rate, and repeat those that were not answered 200; return their number."""
    headers = {"X-Webhook-Secret": OVOKO_SECRET}

    async def post(client: httpx.AsyncClient, number: int) -> None:
        order = order_created(number)
        while True:
            try:
                answer = await client.post(f"{stack.url}/webhooks/ovoko", json=order, headers=headers)
            except httpx.TransportError:
                continue
            if answer.status_code == 200:
                return
            await asyncio.sleep(1)

    sent = 0
    async with httpx.AsyncClient(timeout=30) as client, asyncio.TaskGroup() as posting:
        while not ending.is_set():
            posting.create_task(post(client, sent))
            sent += 1
            await asyncio.sleep(1 / WEBHOOKS_PER_SECOND)
    return sent


def host_of(node: RabbitNode) -> str:
    return f"127.0.0.1:{node.settings.ports['amqp']}"


def findings(stack: Stack, **overrides: str) -> dict[str, list[str]]:
    result: list[dict[str, Any]] = json.loads(stack.run("doctor", "--json", **overrides).stdout)["findings"]
    levels: dict[str, list[str]] = {}
    for finding in result:
        if finding["subject"] in ("hosts", "queues", "broker", "management"):
            levels.setdefault(finding["level"], []).append(finding["what"])
    return levels


async def test_connections_leave_a_node_that_is_killed(stack: Stack, cluster: RabbitCluster) -> None:
    stack.environment |= {
        "STOCKHOOK_AMQP_URL": cluster.url,
        "STOCKHOOK_MANAGEMENT_URL": cluster.management_url,
    }
    assert stack.run("topology").returncode == 0
    cluster.wait_until_members_online()
    running = stack.start("run")
    await stack.ready(running, 60)
    connections = Connections(running)
    ending = asyncio.Event()
    sending = asyncio.create_task(send(stack, ending))
    for owner in ("ingest", "orders"):
        host = connections.hosts()[owner]
        node = next(node for node in cluster.nodes if host_of(node) == host)
        killed_at = datetime.now(UTC)
        node.kill()
        took = await connections.seconds_until_away_from(host, killed_at)
        print(f"killed the node of {owner}:", {name: round(seconds, 2) for name, seconds in took.items()})
        await asyncio.to_thread(cluster.start, [node])
        await asyncio.to_thread(cluster.wait_until_members_online)
    ending.set()
    sent = await sending

    async def all_are_applied() -> bool:
        return await stack.count("orders") == sent

    await until(all_are_applied, "all webhooks are applied", 60)
    assert connections.hosts().keys() == {"ingest", "consumer-publisher", "changes", "actions", *FAMILIES}


async def test_doctor_names_faults_of_a_cluster(stack: Stack, cluster: RabbitCluster) -> None:
    stack.environment |= {
        "STOCKHOOK_AMQP_URL": cluster.url,
        "STOCKHOOK_MANAGEMENT_URL": cluster.management_url,
    }
    assert stack.run("topology").returncode == 0
    cluster.wait_until_members_online()
    well = await asyncio.to_thread(findings, stack)
    single = await asyncio.to_thread(findings, stack, STOCKHOOK_AMQP_URL=hosts_of_url(cluster.url)[0].url)
    dead = cluster.nodes[1]
    dead.kill()
    management = f"127.0.0.1:{dead.settings.ports['management']}"

    async def named() -> bool:
        """The API shows offline members some seconds later."""
        warnings = (await asyncio.to_thread(findings, stack)).get("warning", [])
        return (
            f"{host_of(dead)} cannot be used (Connection refused)" in warnings
            and f"{management} cannot be used (ConnectError)" in warnings
            and any(one.startswith(f"{dead.settings.node_name}: its members of ") for one in warnings)
        )

    await until(named, "the node and its queues are named", 60)
    await asyncio.to_thread(cluster.start, [dead])
    assert "all 3 hosts of STOCKHOOK_AMQP_URL answer" in well["ok"]
    assert "all 3 hosts of STOCKHOOK_MANAGEMENT_URL answer" in well["ok"]
    assert "warning" not in well
    assert "error" not in well
    assert single["warning"] == ["the broker has 3 nodes, and STOCKHOOK_AMQP_URL names one host"]
    assert urlsplit(cluster.url).password not in json.dumps([well, single])
