"""A consumer on a node that is cut off from the leader of its queue."""

import asyncio
import json
from itertools import combinations
from pathlib import Path

import asyncpg
import pytest

from tests.chaos.packet_filter import End, NoPacketFilter, PacketFilter
from tests.support.events import body, return_updated
from tests.support.rabbit_cluster import RabbitCluster, rabbit_cluster, rabbit_programs
from tests.support.stack import Stack, until

# Three nodes (`make test-cluster`).
pytestmark = pytest.mark.cluster

QUEUE = "stockhook.returns"
EVENTS = 5
# The other nodes must notice it, and the node must pause.
CUT_OFF_SECONDS = 8


def messages(cluster: RabbitCluster, column: str) -> int:
    columns = ("name", column, "--formatter", "json")
    listed = json.loads(cluster.ctl("list_queues", "-p", "stockhook", *columns))
    return int(next(queue[column] for queue in listed if queue["name"] == QUEUE))


async def test_an_event_in_flight_on_a_node_that_is_cut_off_returns_to_its_queue(
    stack: Stack, tmp_path: Path
) -> None:
    """The first event of a consumer is processed in isolation mode; RabbitMQ must not lose sight of it."""
    with rabbit_cluster(tmp_path, rabbit_programs()) as cluster:
        try:
            packet_filter = PacketFilter(print)
        except NoPacketFilter as why:
            pytest.skip(f"needs a packet filter: {why}")
        everywhere = {"STOCKHOOK_AMQP_URL": cluster.url}
        assert stack.run("topology", **everywhere).returncode == 0
        await asyncio.to_thread(cluster.wait_until_members_online)
        leader = cluster.leader(QUEUE)
        away = next(node for node in cluster.nodes if node is not leader)
        await stack.started("ingest", **everywhere)
        blocking = await asyncpg.connect(stack.environment["STOCKHOOK_DATABASE_URL"])
        async with blocking.transaction():
            await blocking.execute("LOCK TABLE returns IN ACCESS EXCLUSIVE MODE")
            stack.start("consume", "returns", STOCKHOOK_AMQP_URL=cluster.url_of([away]))
            for number in range(EVENTS):
                assert (await stack.post_ovoko(body(return_updated(number, number)))).status_code == 200

            async def is_held() -> bool:
                return await asyncio.to_thread(messages, cluster, "messages_unacknowledged") == 1

            await until(is_held, "the consumer holds one event", 60)
            ends = {
                node: End(node.settings.address, node.settings.ports["distribution"])
                for node in cluster.nodes
            }
            pairs = [
                (ends[one], ends[other])
                for one, other in combinations(cluster.nodes, 2)
                if away in (one, other)
            ]
            with packet_filter:
                await asyncio.to_thread(packet_filter.cut, pairs, reset=True)
                await asyncio.sleep(CUT_OFF_SECONDS)
        await blocking.close()

        async def is_empty() -> bool:
            return await asyncio.to_thread(messages, cluster, "messages") == 0

        await until(is_empty, "the queue is empty, also of events in flight", 90)
        assert await stack.count("event_log") == EVENTS
