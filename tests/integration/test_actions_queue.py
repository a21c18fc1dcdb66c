"""Waiting actions of one kind delay no other kind."""

from collections import Counter
from typing import Any

from tests.support.applied_events import database_of
from tests.support.stack import Stack
from worker.actions.registry import KINDS
from worker.actions.relay import AT_ONCE
from worker.outbox import actions as table
from worker.postgres.pool import Database

BACKLOG = """
INSERT INTO actions (kind, key, subject, request, created_at)
SELECT 'ovoko.part_details', 'part ' || number, number, '{}', now() - number * interval '1 s'
FROM generate_series(1, 200) AS number
"""

LATER = """
INSERT INTO actions (kind, key, subject, request)
VALUES ('buyback.rerequest_pickup', 'pickup', 'o1', '{}'), ('not.known', 'new', 'o1', '{}')
"""


async def published(database: Database) -> list[Any]:
    """One round of the publisher, without the queue."""
    async with database.transaction() as connection:
        rows = await table.to_publish(connection, KINDS, AT_ONCE)
        await table.note_published(connection, dict.fromkeys(row["action_id"] for row in rows))
    return rows


async def test_a_backlog_of_one_kind_waits_in_the_table(stack: Stack) -> None:
    await stack.execute(BACKLOG + ";" + LATER)
    async with database_of(stack) as database:
        first, second = await published(database), await published(database)
        async with database.transaction() as connection:
            for row in first[:3]:
                await table.claim(connection, row["action_id"], 1)
        third = await published(database)

    subjects = await stack.fetch(
        "SELECT subject FROM actions "
        "WHERE kind LIKE 'ovoko%' AND published_at IS NOT NULL ORDER BY created_at"
    )
    assert Counter(row["kind"] for row in first) == {
        "ovoko.part_details": AT_ONCE,
        "buyback.rerequest_pickup": 1,
    }
    assert second == []
    assert Counter(row["kind"] for row in third) == {"ovoko.part_details": 3}
    # The oldest ones of the two hundred.
    assert [int(row["subject"]) for row in subjects] == list(range(200, 200 - AT_ONCE - 3, -1))
    assert await stack.fetch("SELECT published_at FROM actions WHERE kind = 'not.known'") == [
        {"published_at": None}
    ]
