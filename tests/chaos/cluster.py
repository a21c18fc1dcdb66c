"""A run with three broker nodes and a Postgres pair: its processes, and the injection of faults.

Each host of Postgres has a fault proxy. The nodes of the broker have none: the run with one node injects
faults of the network between the product and its services.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import combinations, islice
from pathlib import Path

from deploy.local.ports import LOOPBACK, choose_ports
from deploy.local.postgres import DATABASE, USER
from deploy.local.process import Spawner
from deploy.local.programs import has_programs
from deploy.local.rabbitmq import RabbitNode
from deploy.local.services import NOTHING_TO_START, Unavailable, find_programs
from tests.chaos.fault_injector import FAILURES, NotHealed, NotInjected, carried_out, inject_into_process
from tests.chaos.faults import Fault, Kind, Target, brief_cluster_deck, cluster_deck, plan
from tests.chaos.packet_filter import End, NoPacketFilter, PacketFilter
from tests.chaos.report import Report
from tests.chaos.world import Options, Say, World, environment, prepare, supervised
from tests.support.fault_proxy import FaultProxy
from tests.support.postgres_messages import PostgresWatch
from tests.support.postgres_pair import PASSWORD, PostgresPair, postgres_pair
from tests.support.protocol_watch import Point
from tests.support.rabbit_cluster import NotFormed, RabbitCluster, rabbit_cluster
from tests.support.supervised import Supervised

INJECT_SECONDS = 900
HEAL_SECONDS = 900
# A restart of all nodes, or of all processes, one after another.
ROLLING_SECONDS = 2400
# A follower is down for this long, under load, before it is started and killed again.
LAGS_SECONDS = 4
# RabbitMQ (3.10) writes the names of new queues to disk with a delay.
NAMES_SAVED_SECONDS = 1.0
LOOK_SECONDS = 0.005

CLUSTER_FAILURES = (*FAILURES, NotFormed, AssertionError, OSError)


@asynccontextmanager
async def cluster_world(folder: Path, options: Options, report: Report, say: Say) -> AsyncIterator[World]:
    """Start the cluster, the pair and the proxies, but not the product's processes.

    Raises:
        Unavailable
    """
    (folder / "log").mkdir()
    programs = find_programs(say)
    if programs is None:
        raise Unavailable(NOTHING_TO_START)
    if not has_programs(programs.postgres.folder, "pg_basebackup"):
        raise Unavailable(f"a Postgres pair needs pg_basebackup; there is none in {programs.postgres.folder}")
    async with AsyncExitStack() as stack:
        say(f"starting {options.cluster} nodes of RabbitMQ and two of Postgres")
        of_cluster, of_pair = folder / "cluster", folder / "pair"
        for one in (of_cluster, of_pair):
            one.mkdir(mode=0o755)
        cluster = stack.enter_context(rabbit_cluster(of_cluster, programs.rabbitmq, size=options.cluster))
        pair = await stack.enter_async_context(postgres_pair(of_pair, programs.postgres))
        packet_filter = None
        try:
            packet_filter = stack.enter_context(PacketFilter(say))
        except NoPacketFilter as why:
            report.notes.append(f"no partition of the cluster: {why}")
        hosts = (pair.primary, pair.standby)
        proxies = {
            node.url: stack.enter_context(
                FaultProxy(LOOPBACK, node.settings.port, watch=PostgresWatch, seed=options.seed + number)
            )
            for number, node in enumerate(hosts)
        }
        spawner = Spawner()
        stack.callback(spawner.close)
        webhook_port = choose_ports(["webhook"], {})["webhook"]
        direct = environment(cluster.url, pair.url, folder, webhook_port)
        await prepare(direct)
        await asyncio.to_thread(cluster.wait_until_members_online)
        await asyncio.sleep(NAMES_SAVED_SECONDS)
        urls = (cluster.url, database_url([proxy.port for proxy in proxies.values()]))
        processes = supervised(spawner, folder, direct, of_ingest=urls, of_consumers=urls)
        injector = ClusterInjector(processes, cluster, pair, proxies, packet_filter)
        partitions = packet_filter is not None
        strikes = plan(options.seed, cluster_deck(partitions=partitions), long=options.is_long)
        if options.is_brief:
            cards = brief_cluster_deck(partitions=partitions)
            strikes = islice(plan(options.seed, cards, long=False), len(cards))
        yield World(cluster, direct, processes, injector, strikes, webhook_port)


def database_url(ports: Sequence[int]) -> str:
    """Connections go to the primary."""
    hosts = ",".join(f"{LOOPBACK}:{port}" for port in ports)
    return f"postgresql://{USER}:{PASSWORD}@{hosts}/{DATABASE}?target_session_attrs=read-write"


@dataclass(slots=True)
class ClusterInjector:
    processes: Mapping[Target, Supervised]
    cluster: RabbitCluster
    pair: PostgresPair
    proxies: Mapping[str, FaultProxy]
    """By the URL of the Postgres host behind each."""
    packet_filter: PacketFilter | None
    _away: dict[Fault, Sequence[RabbitNode]] = field(default_factory=dict)

    async def inject(self, fault: Fault, intensity: float) -> None:
        """Raises NotInjected."""
        limit = ROLLING_SECONDS if fault.kind is Kind.ROLLING_RESTART else INJECT_SECONDS
        async with carried_out(fault, limit, NotInjected, CLUSTER_FAILURES):
            await self._inject(fault)

    async def _inject(self, fault: Fault) -> None:
        match fault.target:
            case Target.INGEST | Target.FIRST_CONSUMER | Target.SECOND_CONSUMER:
                inject_into_process(self.processes[fault.target], fault.kind)
            case Target.ALL_PROCESSES:
                for process in self.processes.values():
                    await process.restart()
            case Target.ALL_NODES if fault.kind is Kind.ROLLING_RESTART:
                await self._restart_each_node()
            case Target.LEADER | Target.FOLLOWER | Target.TWO_NODES | Target.ALL_NODES:
                nodes = await asyncio.to_thread(self._choose, fault.target)
                self._away[fault] = nodes
                await self._strike_nodes(nodes, fault.kind)
            case Target.PRIMARY:
                await self._fail_over(fault.kind)
            case Target.STANDBY:
                node = self.pair.standby
                await asyncio.to_thread(node.kill if fault.kind is Kind.KILLED else node.pause)
            case _:
                raise AssertionError(f"not a fault of a cluster: {fault}")

    def _choose(self, target: Target) -> Sequence[RabbitNode]:
        leads = Counter(queue.leader for queue in self.cluster.queues().values())
        by_queues = sorted(self.cluster.nodes, key=lambda node: leads[node.settings.node_name], reverse=True)
        match target:
            case Target.LEADER:
                return by_queues[:1]
            case Target.FOLLOWER:
                return by_queues[-1:]
            case Target.TWO_NODES:
                return by_queues[:2]
            case _:
                return by_queues

    async def _strike_nodes(self, nodes: Sequence[RabbitNode], kind: Kind) -> None:
        match kind:
            case Kind.KILLED:
                await asyncio.to_thread(self.cluster.kill, nodes)
            case Kind.STOPPED:
                await asyncio.to_thread(self.cluster.stop, nodes)
            case Kind.PAUSED:
                for node in nodes:
                    await asyncio.to_thread(node.pause)
            case Kind.CUT_OFF | Kind.CUT_OFF_RESET | Kind.CUT_OFF_FROM_ONE:
                assert self.packet_filter is not None
                pairs = self._partition(nodes, kind)
                is_reset = kind is not Kind.CUT_OFF
                await asyncio.to_thread(self.packet_filter.cut, pairs, reset=is_reset)
            case Kind.KILLED_WHILE_LAGGING:
                await asyncio.to_thread(self.cluster.kill, nodes)
                await asyncio.sleep(LAGS_SECONDS)
                await asyncio.to_thread(self.cluster.start, nodes)
                await asyncio.to_thread(self.cluster.kill, nodes)
            case _:
                raise AssertionError(f"not a fault of a node: {kind}")

    def _partition(self, nodes: Sequence[RabbitNode], kind: Kind) -> list[tuple[End, End]]:
        """Cut each of these nodes off from all others, or from only one."""
        cut = [pair for pair in combinations(self.cluster.nodes, 2) if any(node in nodes for node in pair)]
        return [
            (_end(one), _end(other)) for one, other in (cut[:1] if kind is Kind.CUT_OFF_FROM_ONE else cut)
        ]

    async def _restart_each_node(self) -> None:
        """Restart the nodes one by one, as an upgrade does: wait until every queue has all its members."""
        for node in self.cluster.nodes:
            await asyncio.to_thread(self.cluster.stop, [node])
            await asyncio.to_thread(self.cluster.start, [node])
            await asyncio.to_thread(self.cluster.wait_until_members_online)

    async def _fail_over(self, kind: Kind) -> None:
        """Return when the standby accepts writes."""
        proxy = self.proxies[self.pair.primary.url]
        match kind:
            case Kind.READ_ONLY:
                await self.pair.make_primary_read_only()
            case Kind.STOPPED:
                await asyncio.to_thread(self.pair.shut_down_primary)
            case Kind.KILLED:
                self.pair.kill_primary()
            case Kind.KILLED_AFTER_COMMIT | Kind.KILLED_BEFORE_FLUSH:
                point = Point.COMMITTED if kind is Kind.KILLED_AFTER_COMMIT else Point.FLUSH
                name = f"cut {point}"
                before = proxy.counts[name]
                await asyncio.to_thread(proxy.cut, point)
                while proxy.counts[name] == before:
                    await asyncio.sleep(LOOK_SECONDS)
                self.pair.kill_primary()
            case _:
                raise AssertionError(f"no failover: {kind}")
        if kind is not Kind.READ_ONLY:
            # The proxy refuses connections, as a machine without the server does.
            await asyncio.to_thread(proxy.refuse)
        await self.pair.promote_standby()

    async def heal(self, fault: Fault) -> None:
        """Return when the fault has ended.

        Raises:
            NotHealed
        """
        async with carried_out(fault, HEAL_SECONDS, NotHealed, CLUSTER_FAILURES):
            await self._heal(fault)

    async def _heal(self, fault: Fault) -> None:
        match fault.target:
            case Target.LEADER | Target.FOLLOWER | Target.TWO_NODES | Target.ALL_NODES:
                await self._heal_nodes(self._away.pop(fault, ()), fault.kind)
            case Target.PRIMARY:
                await self._switch_back()
            case Target.STANDBY:
                node = self.pair.standby
                await asyncio.to_thread(node.start if fault.kind is Kind.KILLED else node.resume)
            case _:
                for process in self.processes.values():
                    process.resume()

    async def _heal_nodes(self, nodes: Sequence[RabbitNode], kind: Kind) -> None:
        match kind:
            case Kind.KILLED | Kind.STOPPED | Kind.KILLED_WHILE_LAGGING:
                await asyncio.to_thread(self.cluster.start, nodes)
            case Kind.PAUSED:
                for node in nodes:
                    await asyncio.to_thread(node.resume)
            case Kind.CUT_OFF | Kind.CUT_OFF_RESET | Kind.CUT_OFF_FROM_ONE:
                assert self.packet_filter is not None
                await asyncio.to_thread(self.packet_filter.heal)
            case _:
                pass

    async def _switch_back(self) -> None:
        """Make the old primary a synchronous standby, so that the next failover goes back to it."""
        old = self.pair.primary
        await self.pair.rebuild_old_primary()
        await asyncio.to_thread(self.proxies[old.url].heal)

    async def settle(self) -> None:
        """Wait for all members of each queue and for a standby that confirms commits; raises NotHealed."""
        try:
            await asyncio.to_thread(self.cluster.wait_until_members_online)
            await self.pair.wait_until_synchronous()
        except CLUSTER_FAILURES as error:
            raise NotHealed(f"the cluster or the pair is not whole: {error}") from error

    async def heal_everything(self) -> None:
        """End all faults; raises NotHealed."""
        for fault in list(self._away):
            await self.heal(fault)
        await self.settle()


def _end(node: RabbitNode) -> End:
    return End(node.settings.address, node.settings.ports["distribution"])
