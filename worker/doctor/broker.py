"""Checks of the broker, over AMQP and, where it is to be had, its management API."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

from worker.broker import Broker, Link
from worker.channel import BrokerRefused, BrokerUnavailable
from worker.doctor.finding import Finding, clock_difference, error, ok, warning
from worker.doctor.versions import check_version
from worker.expected import expected_topology
from worker.management import Management, ManagementUnavailable, Snapshot, vhost_of
from worker.policies import hazards, limited, unlimiting_command
from worker.settings import Settings
from worker.topology import Exchange, Queue, Topology

PROBE_SECONDS = 3.0
LEAST_FREE_BYTES = 1_000_000_000
DECLARE = "run `stockhook topology` as a user that may declare"
LEADERLESS = "delete it and run `stockhook topology`; what it held is in no reach"


async def check_broker(settings: Settings) -> AsyncIterator[Finding]:
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
    broker = Broker(settings.amqp_url.get_secret_value(), "doctor")
    async with broker.connection() as link:
        version = link.version
        for finding in check_version(version):
            yield finding
        async for finding in _check_topology(link, expected, settings):
            yield finding
        depths = await link.depths(queue.name for queue in expected.queues)
    # While an alarm is on, nothing more is read from a connection that has published.
    async with broker.connection() as link:
        async for finding in _check_publishing(link):
            yield finding
    vhost = vhost_of(settings.amqp_url.get_secret_value())
    for finding in check_policies(snapshot, expected.queues, vhost, version):
        yield finding
    if snapshot is None:
        empty = [name for name, depth in depths.items() if depth is not None and not depth.ready]
        async for finding in _probe_leaders(broker, empty):
            yield finding
    if snapshot is not None:
        for finding in (*_check_leaders(snapshot, expected.queues), *_check_nodes(snapshot)):
            yield finding
        if snapshot.ahead_seconds is not None:
            yield clock_difference("the broker's clock", snapshot.ahead_seconds)


async def _check_topology(link: Link, expected: Topology, settings: Settings) -> AsyncIterator[Finding]:
    items: list[Exchange | Queue] = [*expected.exchanges, *expected.queues]
    differences = 0
    may_declare = True
    for item in items:
        try:
            difference = await link.difference(item, by_arguments=may_declare)
        except BrokerRefused:
            may_declare = False
            difference = await link.difference(item, by_arguments=False)
        if difference is not None:
            differences += 1
            is_missing = "is missing" in difference
            remedy = DECLARE if is_missing else "delete it while it is empty, then run `stockhook topology`"
            yield error("topology", difference, remedy)
    if not differences:
        compared = (
            "with the arguments expected" if may_declare else "there; this user cannot compare arguments"
        )
        yield ok("topology", f"{len(items)} exchanges and queues, {compared}")
    if not may_declare and settings.declare_topology:
        yield error(
            "permissions",
            "this user may not declare, and STOCKHOOK_DECLARE_TOPOLOGY asks it to",
            "set STOCKHOOK_DECLARE_TOPOLOGY=false, and run `stockhook topology` as one that may",
        )
    elif may_declare and not settings.declare_topology:
        yield warning(
            "permissions",
            "this user may declare, though it needs not",
            "use the users that `stockhook grants rabbitmq` prints",
        )


async def _check_publishing(link: Link) -> AsyncIterator[Finding]:
    channel = await link.channel()
    # While an alarm is on, the first publish of a connection is still taken; no other is.
    if await channel.takes_messages(PROBE_SECONDS) and await channel.takes_messages(PROBE_SECONDS):
        yield ok("publishing", "the broker confirms")
    elif channel.is_open:
        yield error(
            "publishing",
            "the broker confirms nothing: an alarm is on, or it hangs",
            "see `rabbitmq-diagnostics alarms`: memory or disk of the broker",
        )
    else:
        yield warning(
            "publishing",
            "this user may not publish to stockhook.probe",
            "well for a monitor; ingest and consumers need it: `stockhook grants rabbitmq`",
        )


async def _probe_leaders(broker: Broker, empty: Sequence[str]) -> AsyncIterator[Finding]:
    """Ask empty queues for a message: a queue without a leader answers a passive declare, but not this.

    It ends the connection, so each is asked over one of its own.
    """
    without = 0
    for name in empty:
        try:
            async with broker.connection() as link:
                answers = await (await link.channel()).answers(name, PROBE_SECONDS)
        except BrokerRefused:
            yield warning(
                "queues",
                f"this user cannot see whether {name} has a leader, and may not see it of others",
                "set STOCKHOOK_MANAGEMENT_URL to a user with the tag monitoring",
            )
            return
        if not answers:
            without += 1
            yield error("queues", f"{name} has no leader: it takes and gives nothing", LEADERLESS)
    if not without:
        yield ok("queues", f"{len(empty)} are empty, and answer")


def check_policies(
    snapshot: Snapshot | None, expected: Sequence[Queue], vhost: str, version: str
) -> Iterator[Finding]:
    """Policies that would make queues lose events; only the management API shows policies."""
    if snapshot is None:
        yield warning(
            "policies",
            "policies that expire or drop events cannot be seen without the management API",
            "set STOCKHOOK_MANAGEMENT_URL to a user with the tag monitoring",
        )
        return
    found = hazards(snapshot.queues, expected, vhost)
    for hazard in found:
        yield error("policies", str(hazard), hazard.remedy)
    if version[:1].isdecimal() and int(version.partition(".")[0]) >= 4:
        for name in limited(snapshot.queues, expected):
            yield warning(
                "policies",
                f"{name}: the broker drops a message after 20 deliveries",
                unlimiting_command(vhost),
            )
    if not found:
        yield ok("policies", "no policy expires or drops events")


def _check_leaders(snapshot: Snapshot, expected: Sequence[Queue]) -> Iterator[Finding]:
    names = {queue.name for queue in expected}
    ours = [queue for queue in snapshot.queues if queue.get("name") in names]
    without = [str(queue["name"]) for queue in ours if not queue.get("leader")]
    for name in without:
        yield error("queues", f"{name} has no leader: it takes and gives nothing", LEADERLESS)
    if ours and not without:
        yield ok("queues", f"{len(ours)} have a leader")
    fewer = [
        str(queue["name"])
        for queue in ours
        if len(_names(queue.get("online"))) < len(_names(queue.get("members")))
    ]
    if fewer:
        yield warning("queues", f"{len(fewer)} lack members: {fewer[0]}, …", "see that all nodes are up")


def _names(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _check_nodes(snapshot: Snapshot) -> Iterator[Finding]:
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
        words = f"{name}: {free / 1e9:.1f} GB free, alarm below {limit / 1e9:.2f} GB"
        if limit < LEAST_FREE_BYTES:
            yield warning("disk", words, "set disk_free_limit to some GB: at the default a disk fills up")
        elif free < 2 * limit:
            yield warning("disk", words, "make room")
        else:
            yield ok("disk", words)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


async def reached(settings: Settings) -> tuple[list[Finding], bool]:
    """What could be found, and whether the broker was reached."""
    found: list[Finding] = []
    try:
        async with asyncio.timeout(120):
            async for finding in check_broker(settings):
                found.append(finding)
    except BrokerRefused as refused:
        return [*found, error("broker", f"it refused: {refused.said}", refused.remedy)], False
    except (BrokerUnavailable, TimeoutError) as unavailable:
        words = str(unavailable) or "no answer in time"
        return [*found, error("broker", f"cannot be reached ({words})", "see STOCKHOOK_AMQP_URL")], False
    return found, True
