"""The change feed during faults: compares committed changes to those that two subscribers received."""

import base64
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import asyncpg
import orjson

from consumers.family import Event
from consumers.registry import FAMILIES, FAMILY_OF, AnyFamily
from schemas.changes import PREFIX, TYPES, cloud_events
from schemas.events import parse, routing_key_of
from tests.chaos.load import CLOCK_TOLERANCE, Taken
from tests.support.endpoint import Behaviour, Endpoint
from tests.support.feed import Entity, PublishedChange, entity_of, last_states
from worker.amqp.connection import Broker
from worker.amqp.tap import Delivery
from worker.amqp.topology import (
    CHANGES,
    Binding,
    Queue,
    Topology,
)

QUEUE = "chaos.changes"
WEBHOOK = "chaos"

# One of this many changes is refused once.
REFUSED_ONE_IN = 10
DRAIN_SECONDS = 60.0
# A quorum queue delivers at most 2,000 messages without an ack.
DRAINED_AT_ONCE = 1000
LISTED = 5

# Written in the transaction of the change: both are committed, or none. The table is not on the disk that
# gets full.
KEEP_COMMITTED = """
CREATE TABLE chaos_changes (LIKE changes) TABLESPACE pg_default;
CREATE FUNCTION keep_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_changes SELECT NEW.*;
    RETURN NEW;
END $$;
CREATE TRIGGER keep_change AFTER INSERT ON changes FOR EACH ROW EXECUTE FUNCTION keep_change();
"""
FORGET_COMMITTED = """
DROP TRIGGER IF EXISTS keep_change ON changes;
DROP FUNCTION IF EXISTS keep_change;
DROP TABLE IF EXISTS chaos_changes;
"""
COMMITTED = "SELECT batch_id, sequence, changes FROM chaos_changes ORDER BY sequence"
WAITING = "SELECT coalesce(sum(size), 0) FROM changes"


def subscriber(webhook_port: int) -> dict[str, str]:
    """An element of STOCKHOOK_CHANGES_WEBHOOKS: the endpoint of a run."""
    return {
        "name": WEBHOOK,
        "url": f"http://127.0.0.1:{webhook_port}/hooks",
        "secret": "whsec_" + base64.b64encode(bytes(32)).decode(),
    }


async def prepare(broker: Broker, database_url: str) -> None:
    """Record every committed change in a table, and every published one in a queue."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(KEEP_COMMITTED)
    await connection.close()
    async with broker.connection() as broker_connection:
        channel = await broker_connection.channel()
        queue = Queue(QUEUE, {"x-queue-type": "quorum"})
        await channel.ensure_topology(Topology((), (queue,), (Binding(CHANGES, QUEUE, "#"),)))


def refusing_now_and_then(endpoint: Endpoint) -> Behaviour:
    """Refuse some changes once; the second attempt is accepted."""
    refused: set[str] = set()

    def behave(number: int) -> int:
        webhook_id = endpoint.requests[number].headers["webhook-id"]
        if sum(webhook_id.encode()) % REFUSED_ONE_IN == 0 and webhook_id not in refused:
            refused.add(webhook_id)
            return 503
        return 204

    return behave


async def waiting(database_url: str) -> int:
    """The number of changes that are not yet published."""
    connection = await asyncpg.connect(database_url)
    try:
        return int(await connection.fetchval(WAITING))
    finally:
        await connection.close()


async def committed(database_url: str) -> list[PublishedChange]:
    """Every committed change, ordered by its number."""
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(COMMITTED)
    finally:
        await connection.close()
    return [
        orjson.loads(change.body)
        for row in rows
        for change in cloud_events(row["batch_id"], row["sequence"], row["changes"])
    ]


async def published(broker: Broker) -> list[PublishedChange]:
    """All messages of the queue in order, including repeats. No change is published meanwhile."""
    arrived: list[Delivery] = []
    async with broker.connection() as connection:
        depth = await connection.depth(QUEUE)
        assert depth is not None, "it was declared"
        channel = await connection.channel()
        await channel.consume(QUEUE, "chaos", DRAINED_AT_ONCE, arrived.append)
        end, acked = monotonic() + DRAIN_SECONDS, 0
        while acked < depth.ready and monotonic() < end:
            # The answer follows all earlier messages.
            await channel.depth(QUEUE)
            if len(arrived) > acked:
                acked = len(arrived)
                await channel.ack_up_to(arrived[-1].tag)
    return [orjson.loads(delivery.body) for delivery in arrived]


@dataclass(frozen=True, slots=True)
class FeedVerdict:
    committed: int
    published: int
    posted: int
    problems: list[str]


async def judge(
    database_url: str, broker: Broker, posts: Sequence[PublishedChange], applied: Iterable[Taken]
) -> FeedVerdict:
    """`posts` are the changes that the endpoint accepted; `applied` are the events in the log."""
    expected = await committed(database_url)
    got = await published(broker)
    held = await projected(database_url, applied)
    problems = [
        *(f"queue: {line}" for line in faults(expected, got, in_order=True)),
        *(f"webhook: {line}" for line in faults(expected, posts, in_order=False)),
        *(f"queue: {line}" for line in apart(last_states(got), held)),
        *(f"webhook: {line}" for line in apart(last_states(posts), held)),
    ]
    return FeedVerdict(len(expected), len(got), len(posts), problems)


def faults(
    expected: Sequence[PublishedChange], received: Sequence[PublishedChange], *, in_order: bool
) -> list[str]:
    """Changes that were lost, invented, altered, or received out of order."""
    known = {change["id"]: change for change in expected}
    first: dict[str, PublishedChange] = {}
    for change in received:
        first.setdefault(change["id"], change)
    lines = _listed("committed and not received", known.keys() - first.keys())
    lines += _listed("received and not committed", first.keys() - known.keys())
    lines += _listed(
        "received with other content than committed",
        {change["id"] for change in received if known.get(change["id"], change) != change},
    )
    if in_order:
        lines += _listed("received after a later one of the same entity", _overtaken(first.values()))
    return lines


def _overtaken(changes: Iterable[PublishedChange]) -> list[str]:
    newest: dict[Entity, str] = {}
    violations = []
    for change in changes:
        entity = entity_of(change)
        if change["sequence"] < newest.get(entity, ""):
            violations.append(change["id"])
        newest[entity] = max(change["sequence"], newest.get(entity, ""))
    return violations


def apart(held: Mapping[Entity, Any], projection: Mapping[Entity, Any]) -> list[str]:
    """Differences between a subscriber's state and the tables. Communications are in no projection."""
    ours = {entity: state for entity, state in held.items() if entity[0] != "communication"}
    return [
        *_listed("unknown to the subscriber", projection.keys() - ours.keys()),
        *_listed("known only to the subscriber", ours.keys() - projection.keys()),
        *_listed(
            "different from the tables",
            {entity for entity, state in projection.items() if entity in ours and ours[entity] != state},
        ),
    ]


async def projected(database_url: str, applied: Iterable[Taken]) -> dict[Entity, Any]:
    """The rows of each entity of these events, in the format of the feed."""
    by_family: defaultdict[str, list[Event[Any]]] = defaultdict(list)
    for taken in applied:
        payload = parse(taken.provider, taken.message_body)
        family = FAMILY_OF[routing_key_of(type(payload))]
        event_id = taken.identity.event_id
        event = Event(event_id, datetime.now(UTC), payload, tolerance=CLOCK_TOLERANCE)
        by_family[family].append(event)
    held: dict[Entity, Any] = {}
    connection = await asyncpg.connect(database_url)
    try:
        for name, events in by_family.items():
            held |= await _held(FAMILIES[name], connection, events)
    finally:
        await connection.close()
    return held


async def _held(family: AnyFamily, connection: Any, events: Sequence[Event[Any]]) -> dict[Entity, Any]:
    subjects = {family.key(event.payload): event.payload.entity_id for event in events}
    async with connection.transaction():
        states = await family.load(connection, events, lock=True)
    held = {}
    for key, state in states.items():
        visible = family.public_state(state)
        after = orjson.loads(orjson.dumps(visible, default=str, option=orjson.OPT_UTC_Z))
        published = {
            "type": PREFIX + TYPES[type(visible)][0],
            "subject": subjects[key],
            "data": {"after": after},
        }
        held[entity_of(published)] = after
    return held


def _listed(label: str, wrong: Iterable[Any]) -> list[str]:
    several = sorted(wrong)
    return [f"{len(several)} {label}: {', '.join(map(str, several[:LISTED]))}"] if several else []
