"""Concurrent changes of one dead letter."""

from schemas import identity
from tests.support.applied_events import database_of
from tests.support.stack import Stack
from worker.amqp.tap import Delivery
from worker.dead_letters import search, store
from worker.dead_letters.message import read_letter
from worker.dead_letters.search import Selection


async def test_a_letter_that_was_changed_since_it_was_read_is_not_replayed_as_it_was(stack: Stack) -> None:
    async with database_of(stack) as database, database.connection() as connection:
        await store.insert(connection, [read_letter("orders", Delivery(1, "", {}, b"read", False, "m.1"))])
        [letter] = await search.select(connection, Selection())
        number = letter.dead_letter_id
        changed = await connection.fetch(store.CHANGE_BODY, number, b"changed", letter.body, "", None)
        started = [
            await connection.fetch(
                store.MARK_REPLAYING, [number], [identity.content_hash_id(body)], [None], [body]
            )
            for body in (b"read", b"changed")
        ]

    assert len(changed) == 1
    assert [len(rows) for rows in started] == [0, 1]
