"""The identity of an event: its id, its marketplace and its content together."""

import asyncio
from datetime import UTC, datetime
from itertools import permutations
from uuid import UUID, uuid4

import asyncpg
import pytest

from consumers.registry import FAMILIES
from tests.support.applied_events import apply, database_of, flusher_of, item
from tests.support.events import buyback, part_changed
from tests.support.stack import Stack
from worker.amqp.tap import Delivery
from worker.dead_letters import search, store
from worker.dead_letters.message import read_letter
from worker.dead_letters.search import Selection
from worker.pipeline.decode import Decoded
from worker.pipeline.outcome import Applied, Duplicate, Outcome
from worker.pipeline.transaction import apply_batch
from worker.postgres import event_log, findings
from worker.postgres.migrations import migrations
from worker.postgres.pool import Database


def part(part_id: str, event_id: UUID) -> Decoded:
    return item(part_changed(part_id), event_id)


def reminder(event_id: UUID) -> Decoded:
    reminded = buyback("OrderSchedulePickupReminderEvent", daysAfterCreation=1, order={"id": "o1"})
    return item(reminded, event_id)


async def outcomes(stack: Stack, *batch: Decoded) -> list[type[Outcome]]:
    async with flusher_of(stack) as flusher:
        report = await apply_batch(FAMILIES["inventory"], flusher, batch)
    return [type(outcome) for outcome in report.outcomes]


async def reused(stack: Stack) -> set[UUID]:
    return {row["event_id"] for row in await stack.fetch("SELECT event_id FROM findings")}


async def test_each_content_under_an_id_is_applied_once(stack: Stack) -> None:
    event_id = uuid4()
    one, other, third = (part(name, event_id) for name in ("1", "2", "3"))

    assert await outcomes(stack, one, other, one, other) == [Applied, Applied, Duplicate, Duplicate]
    assert await outcomes(stack, other, third, one) == [Duplicate, Applied, Duplicate]
    assert await outcomes(stack, third) == [Duplicate]
    assert await stack.count("event_log") == await stack.count("parts") == 3
    assert await reused(stack) == {event_id}


async def test_the_finding_depends_on_the_set_of_events_alone(stack: Stack) -> None:
    """Independent of the first event with the id, even if it is from the other marketplace."""
    inventory, reminders = "inventory", "reminders"
    for order in permutations(range(3)):
        event_id, alone = uuid4(), uuid4()
        sent = [
            (inventory, part("1", event_id)),
            (inventory, part("2", event_id)),
            (reminders, reminder(event_id)),
        ]
        for family, event in (sent[number] for number in order):
            await apply(stack, family, [event])
        for family, event in ((sent[0][0], part("1", alone)), (reminders, reminder(alone))):
            await apply(stack, family, [event])

        details = await reused(stack)
        assert event_id in details
        assert alone not in details


async def test_the_later_of_two_concurrent_contents_notes_that_the_id_was_used_twice(stack: Stack) -> None:
    event_id = uuid4()
    await apply(stack, "reminders", [reminder(event_id)])
    async with database_of(stack) as database, database.transaction() as connection:
        first = await event_log.claim(connection, "inventory", [part("1", event_id).candidate])
        second = asyncio.create_task(apply(stack, "inventory", [part("2", event_id)]))
        async with asyncio.timeout(20):
            while not await stack.fetch("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
                await asyncio.sleep(0.02)
        await findings.note_reuse(connection, first.findings)
    await second

    assert await reused(stack) == {event_id}


async def test_an_event_logged_by_an_earlier_release_under_a_derived_id_is_not_applied_again(
    stack: Stack,
) -> None:
    """Its consumers may still run concurrently."""
    event_id, derived = uuid4(), uuid4()
    one, other = part("1", event_id), part("2", event_id)
    await apply(stack, "inventory", [one])
    await stack.execute(
        f"INSERT INTO event_ids VALUES ('{derived}', '{other.candidate.envelope.content_id}');"
        "INSERT INTO event_log (event_id, reuse_of, provider, family, type, entity_id, occurred_at, "
        f"received_at, body) VALUES ('{derived}', '{event_id}', 'ovoko', 'inventory', 'part.status.changed', "
        "'2', now(), now(), '{}')"
    )

    assert await outcomes(stack, other, part("3", event_id)) == [Duplicate, Applied]


async def test_the_migration_covers_events_logged_under_derived_ids(fresh_database: str) -> None:
    event_id, derived, content_id = uuid4(), uuid4(), uuid4()
    connection = await asyncpg.connect(fresh_database)
    before = [migration for migration in migrations() if migration.version < "0016"]
    [added] = [migration for migration in migrations() if migration.version.startswith("0016")]
    for migration in before:
        await connection.execute(migration.up)
    await connection.execute(
        f"INSERT INTO event_ids VALUES ('{event_id}', gen_random_uuid()), ('{derived}', '{content_id}')"
    )
    await connection.execute(
        "INSERT INTO event_log (event_id, reuse_of, provider, family, type, entity_id, occurred_at, "
        f"received_at, body) VALUES ('{event_id}', NULL, 'ovoko', 'inventory', '', '1', now(), now(), ''), "
        f"('{derived}', '{event_id}', 'ovoko', 'inventory', '', '2', now(), now(), '')"
    )
    await connection.execute(added.up)
    rows = await connection.fetch("SELECT * FROM reused_event_ids")
    await connection.execute(added.down)
    left = await connection.fetchval("SELECT count(*) FROM event_log JOIN event_ids USING (event_id)")
    await connection.close()

    assert [tuple(row) for row in rows] == [(event_id, "ovoko", content_id)]
    assert left == 2


@pytest.mark.parametrize("is_logged", [False, True])
async def test_a_replay_is_applied_once_its_content_is(stack: Stack, is_logged: bool) -> None:
    """Another event with its id in the log does not count."""
    event_id = uuid4()
    dead, other = part("1", event_id), part("2", event_id)
    await apply(stack, "inventory", [other])
    async with database_of(stack) as database:
        number = await _begin_replay(database, dead)
        if is_logged:
            await apply(stack, "inventory", [dead])
        # Another event with the same id fails, and its letter is distinguished from the replayed one.
        async with database.connection() as connection:
            await store.insert(connection, [read_letter("inventory", _dead(part("3", event_id)))])
            rows = await connection.fetch(store.FOLLOW_REPLAY, [number], [datetime.min.replace(tzinfo=UTC)])

    assert [tuple(row) for row in rows] == ([(number, False)] if is_logged else [])


async def _begin_replay(database: Database, dead: Decoded) -> int:
    async with database.connection() as connection:
        await store.insert(connection, [read_letter("inventory", _dead(dead))])
        [letter] = await search.select(connection, Selection())
        envelope = dead.candidate.envelope
        await connection.fetch(
            store.MARK_REPLAYING,
            [letter.dead_letter_id],
            [envelope.event_id],
            [envelope.content_id],
            [letter.body],
        )
    return letter.dead_letter_id


def _dead(item: Decoded) -> Delivery:
    envelope = item.candidate.envelope
    return Delivery(1, envelope.event_type, envelope.to_headers(), item.candidate.body, False)
