"""The statement that ends a batch."""

import asyncio

from consumers.registry import FAMILIES
from tests.support.applied_events import database_of, numbered
from tests.support.events import part_changed
from tests.support.stack import Stack, until
from worker.pipeline.transaction import apply_batch
from worker.postgres.durability import Flusher
from worker.postgres.pool import Database

WAITING = "SELECT FROM pg_locks WHERE NOT granted"


async def apply_numbered(flusher: Flusher, number: int) -> None:
    batch = [numbered(part_changed(str(number)), number)]
    await apply_batch(FAMILIES["inventory"], flusher, batch, record_changes=True)


async def test_a_batch_locks_its_counter_of_changes_after_the_sequence_numbers(stack: Stack) -> None:
    """Two batches of one family lock both in the same order, so they never wait for each other."""
    # A counter belongs to a connection: this has one, beside that of the flusher.
    database = Database(stack.environment["STOCKHOOK_DATABASE_URL"], 2, "test")
    async with Flusher(database) as flusher:
        await apply_numbered(flusher, 1)
        async with database_of(stack) as others, others.transaction() as other:
            await other.execute("SELECT FROM event_sequences FOR UPDATE")
            waiting = asyncio.create_task(apply_numbered(flusher, 2))
            await until(lambda: stack.fetch(WAITING), "the batch waits for the sequence numbers")
            free = await other.fetch("SELECT FROM change_counts FOR UPDATE SKIP LOCKED")
        await waiting
    await database.close()

    assert len(free) == 1
    [row] = await stack.fetch("SELECT seen::text AS seen, applied FROM event_sequences")
    assert (row["seen"], row["applied"]) == ("{[1,3)}", 2)
