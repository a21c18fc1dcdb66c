"""Checks of the broker, over AMQP and, if it is configured, its management API."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from worker.amqp.connection import Broker, BrokerConnection
from worker.amqp.desired_topology import expected_topology
from worker.amqp.errors import BrokerRefused, BrokerUnavailable
from worker.amqp.management import (
    Management,
    ManagementUnavailable,
    Snapshot,
    vhost_of,
)
from worker.amqp.policies import (
    OURS,
    hazards,
    limited,
    unlimiting_command,
)
from worker.amqp.topology import Exchange, Queue, Topology
from worker.config.check import (
    CheckResult,
    clock_difference,
    error,
    ok,
    unchecked,
    warning,
)
from worker.config.settings import Settings
from worker.tools.doctor.versions import check_version

PROBE_SECONDS = 3.0
LEAST_FREE_BYTES = 1_000_000_000

# Of a quorum queue, if the cluster has at least as many nodes.
MEMBERS = 3
SHOWN_NAMES = 5

DECLARE = "run `stockhook topology` as a user that may declare"
LEADERLESS_ALONE = (
    "restart the broker; if that does not help, delete it (its messages are lost), then `stockhook topology`"
)
LEADERLESS_IN_CLUSTER = (
    "start the nodes that hold its members, and reconnect them; only if their disks are lost for good, "
    "delete it (its messages are lost) and run `stockhook topology`"
)


async def check_broker(settings: Settings) -> AsyncIterator[CheckResult]:
    """Raises: BrokerUnavailable."""
    expected = expected_topology(settings)
    snapshot: Snapshot | None = None
    if settings.management_url is not None:
        management = Management(
            settings.management_url.get_secret_value(), settings.amqp_url.get_secret_value()
        )
        try:
            snapshot = await management.snapshot()
        except ManagementUnavailable as unavailable:
            yield error("management", f"no answer ({unavailable})", "see STOCKHOOK_MANAGEMENT_URL")
        else:
            if len(management.hosts) > 1:
                failing = await management.failing_hosts()
                for finding in check_hosts("STOCKHOOK_MANAGEMENT_URL", len(management.hosts), failing):
                    yield finding
    broker = Broker(settings.amqp_url.get_secret_value(), "doctor")
    if len(broker.hosts) > 1:
        refusing = await broker.failing_hosts()
        for finding in check_hosts("STOCKHOOK_AMQP_URL", len(broker.hosts), refusing):
            yield finding
    elif snapshot is not None and len(snapshot.nodes) > 1:
        yield warning(
            "hosts",
            f"the broker has {len(snapshot.nodes)} nodes, and STOCKHOOK_AMQP_URL names one host",
            "name every node, comma-separated, unless that host is a load balancer for all of them",
        )
    async with broker.connection() as connection:
        version = connection.version
        for finding in check_version(version):
            yield finding
        findings, visible = await check_topology(connection, expected, settings)
        for finding in findings:
            yield finding
        depths = await connection.depths(queue.name for queue in expected.queues if queue in visible)
    # While an alarm is on, the broker reads nothing more from a connection that has published.
    async with broker.connection() as connection:
        async for finding in _check_publishing(connection):
            yield finding
    vhost = vhost_of(settings.amqp_url.get_secret_value())
    for finding in check_policies(snapshot, expected.queues, vhost, version):
        yield finding
    leaders = {} if snapshot is None else _leaders(snapshot, expected.queues)
    empty = [
        name
        for name, depth in depths.items()
        if depth is not None and not depth.ready and leaders.get(name, True)
    ]
    nodes = max(len(broker.hosts), 0 if snapshot is None else len(snapshot.nodes))
    leaderless = LEADERLESS_ALONE if nodes == 1 else LEADERLESS_IN_CLUSTER
    async for finding in _probe_leaders(broker, empty, leaderless, leaders_are_known=snapshot is not None):
        yield finding
    if snapshot is not None:
        for finding in (
            *_check_leaders(snapshot, expected.queues, leaderless, vhost),
            *_check_nodes(snapshot),
        ):
            yield finding
        if snapshot.ahead_seconds is not None:
            yield clock_difference("the broker's clock", snapshot.ahead_seconds)


def check_hosts(setting: str, number: int, failing: Mapping[str, Exception | str]) -> Iterator[CheckResult]:
    """The hosts of a URL that names several. If none answers, the error for all of them says so."""
    if len(failing) == number:
        return
    for name, failure in failing.items():
        if isinstance(failure, BrokerRefused):
            yield error(
                "hosts", f"{name} refuses, and another host accepts: {failure.answer}", failure.remedy
            )
        else:
            yield warning(
                "hosts",
                f"{name} cannot be used ({failure})",
                f"start it, or correct or remove it in {setting}",
            )
    if not failing:
        yield ok("hosts", f"all {number} hosts of {setting} answer")


async def check_topology(
    connection: BrokerConnection, expected: Topology, settings: Settings
) -> tuple[list[CheckResult], list[Exchange | Queue]]:
    """The differences, and the items that this user can see: RabbitMQ 4.2.6 and newer hide some."""
    findings: list[CheckResult] = []
    visible: list[Exchange | Queue] = []
    may_declare = True
    items: list[Exchange | Queue] = [*expected.exchanges, *expected.queues]
    for item in items:
        try:
            difference = await connection.difference(item, by_arguments=False)
        except BrokerRefused:
            continue
        visible.append(item)
        if difference is None and may_declare:
            try:
                difference = await connection.difference(item)
            except BrokerRefused:
                may_declare = False
        if difference is not None:
            is_missing = "is missing" in difference
            remedy = DECLARE if is_missing else "delete it while it is empty, then run `stockhook topology`"
            findings.append(error("topology", difference, remedy))
    if not findings:
        compared = (
            "with the arguments expected" if may_declare else "there; this user cannot compare arguments"
        )
        unseen = len(items) - len(visible)
        hidden = f"; {unseen} more that this user cannot see" if unseen else ""
        findings.append(ok("topology", f"{len(visible)} exchanges and queues, {compared}{hidden}"))
    if not visible:
        # A user that may declare can see all items.
        may_declare = False
    if not may_declare and settings.declare_topology:
        findings.append(
            error(
                "permissions",
                "this user may not declare, and STOCKHOOK_DECLARE_TOPOLOGY requires it",
                "set STOCKHOOK_DECLARE_TOPOLOGY=false, and run `stockhook topology` as one that may",
            )
        )
    elif may_declare and not settings.declare_topology:
        findings.append(
            warning(
                "permissions",
                "this user may declare, and does not need to",
                "use the users that `stockhook grants rabbitmq` prints",
            )
        )
    return findings, visible


async def _check_publishing(connection: BrokerConnection) -> AsyncIterator[CheckResult]:
    channel = await connection.channel()
    # While an alarm is on, only the first publish of a connection is accepted.
    if await channel.accepts_publishes(PROBE_SECONDS) and await channel.accepts_publishes(PROBE_SECONDS):
        yield ok("publishing", "the broker confirms")
    elif channel.is_open:
        yield error(
            "publishing",
            "the broker confirms nothing: an alarm is on, or it hangs",
            "see `rabbitmq-diagnostics alarms`: memory or disk of the broker",
        )
    else:
        yield unchecked(
            "publishing",
            "this user may not publish to stockhook.probe",
            "correct for monitor and console; ingest and consumers need it: `stockhook grants rabbitmq`",
        )


async def _probe_leaders(
    broker: Broker, empty: Sequence[str], remedy: str, *, leaders_are_known: bool
) -> AsyncIterator[CheckResult]:
    """Get a message from each empty queue: without a leader, a queue answers only passive declarations.

    The failure ends the connection, so each queue has its own. RabbitMQ 4's management API names a leader
    as long as its node runs.
    """
    without = 0
    for name in empty:
        try:
            answers = await _answers(broker, name)
        except BrokerRefused:
            if leaders_are_known:
                return
            yield unchecked(
                "queues",
                f"this user cannot see whether {name} and other queues have a leader",
                "set STOCKHOOK_MANAGEMENT_URL to a user with the tag monitoring",
            )
            return
        if not answers:
            without += 1
            yield error("queues", f"{name} has no leader: it neither accepts nor delivers messages", remedy)
    if not without:
        yield ok("queues", f"{len(empty)} are empty and answer")


async def _answers(broker: Broker, queue: str) -> bool:
    """Whether a queue answers. Repeated once if the connection is lost, which is not the queue's fault.

    Raises:
        BrokerUnavailable
    """
    try:
        async with broker.connection() as connection:
            return await (await connection.channel()).answers(queue, PROBE_SECONDS)
    except BrokerRefused:
        raise
    except BrokerUnavailable:
        async with broker.connection() as connection:
            return await (await connection.channel()).answers(queue, PROBE_SECONDS)


def check_policies(
    snapshot: Snapshot | None, expected: Sequence[Queue], vhost: str, version: str
) -> Iterator[CheckResult]:
    """Policies that would make queues lose events; only the management API shows policies."""
    if snapshot is None:
        yield unchecked(
            "policies",
            "policies that expire or drop events cannot be seen without the management API",
            "set STOCKHOOK_MANAGEMENT_URL to a user with the tag monitoring",
        )
        return
    policy_hazards = hazards(snapshot.queues, expected, vhost)
    for hazard in policy_hazards:
        yield error("policies", str(hazard), hazard.remedy)
    if version[:1].isdecimal() and int(version.partition(".")[0]) >= 4:
        for name in limited(snapshot.queues, expected):
            yield warning(
                "policies",
                f"{name}: the broker drops a message after 20 deliveries",
                unlimiting_command(vhost),
            )
    if not policy_hazards:
        yield ok("policies", "no policy expires or drops events")


def _leaders(snapshot: Snapshot, expected: Sequence[Queue]) -> dict[str, object]:
    names = {queue.name for queue in expected}
    return {
        str(queue["name"]): queue.get("leader") for queue in snapshot.queues if queue.get("name") in names
    }


def _check_leaders(
    snapshot: Snapshot, expected: Sequence[Queue], remedy: str, vhost: str
) -> Iterator[CheckResult]:
    leaders = _leaders(snapshot, expected)
    ours = [queue for queue in snapshot.queues if queue.get("name") in leaders]
    without = [name for name, leader in leaders.items() if not leader]
    for name in without:
        yield error("queues", f"{name} has no leader: it neither accepts nor delivers messages", remedy)
    if ours and not without:
        yield ok("queues", f"{len(ours)} have a leader")
    yield from check_members(ours, snapshot.nodes, vhost)


def check_members(
    queues: Sequence[dict[str, object]], nodes: Sequence[dict[str, object]], vhost: str
) -> Iterator[CheckResult]:
    """Nodes on which a quorum queue's member is offline, or on which queues lack a member."""
    running = {str(node.get("name")) for node in nodes if node.get("running")}
    offline: dict[str, list[str]] = {}
    absent: dict[tuple[str, ...], list[str]] = {}
    for queue in queues:
        name = str(queue["name"])
        members, online = _names(queue.get("members")), _names(queue.get("online"))
        for node in members - online:
            offline.setdefault(node, []).append(name)
        if 0 < len(members) < min(MEMBERS, len(running)):
            absent.setdefault(tuple(sorted(running - members)), []).append(name)
    for node, names in sorted(offline.items()):
        yield warning(
            "queues",
            f"{node}: its members of {len(names)} queues are offline: {_listed(names)}",
            "start the node, or see its log",
        )
    for free, names in sorted(absent.items()):
        node = free[0] if len(free) == 1 else "NODE"
        yield warning(
            "queues",
            f"{', '.join(free)}: {len(names)} queues have no member there: {_listed(names)}",
            f"add members: `rabbitmq-queues grow {node} all --vhost-pattern '^{re.escape(vhost)}$' "
            f"--queue-pattern '{OURS}'`",
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN_NAMES])
    return shown if len(names) <= SHOWN_NAMES else f"{shown} and {len(names) - SHOWN_NAMES} more"


def _names(value: object) -> set[str]:
    return set(map(str, value)) if isinstance(value, list) else set()


def _check_nodes(snapshot: Snapshot) -> Iterator[CheckResult]:
    for node in snapshot.nodes:
        name = str(node.get("name"))
        if node.get("mem_alarm"):
            yield error(
                "alarms", f"{name}: memory alarm: publishers are stopped", "give it memory, or drain queues"
            )
        if node.get("disk_free_alarm"):
            yield error("alarms", f"{name}: disk alarm: publishers are stopped", "make room on its disk")
        if node.get("partitions"):
            yield error("alarms", f"{name}: network partition", "see `rabbitmq-diagnostics cluster_status`")
        free, limit = _number(node.get("disk_free")), _number(node.get("disk_free_limit"))
        if free is None or limit is None:
            continue
        space = f"{name}: {free / 1e9:.1f} GB free, alarm below {limit / 1e9:.2f} GB"
        if limit < LEAST_FREE_BYTES:
            yield warning("disk", space, "set disk_free_limit to some GB: at the default a disk fills up")
        elif free < 2 * limit:
            yield warning("disk", space, "make room")
        else:
            yield ok("disk", space)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


async def check_reachable(settings: Settings, seconds: float = 120) -> tuple[list[CheckResult], bool]:
    """The results, and whether the broker could be reached. They are incomplete after `seconds`."""
    results: list[CheckResult] = []
    try:
        async with asyncio.timeout(seconds):
            async for finding in check_broker(settings):
                results.append(finding)
    except BrokerRefused as refused:
        return [*results, error("broker", f"it refused: {refused.answer}", refused.remedy)], False
    except (BrokerUnavailable, TimeoutError) as unavailable:
        reason = str(unavailable) or "no answer in time"
        return [*results, error("broker", f"cannot be reached ({reason})", "see STOCKHOOK_AMQP_URL")], False
    return results, True
