"""Columns are added while events are applied."""

from uuid import UUID, uuid4

import asyncpg
import pytest

from consumers.registry import FAMILIES
from schemas.envelope import Envelope
from schemas.examples import documented
from tests.support.events import EPOCH
from worker.amqp.tap import Delivery
from worker.pipeline.decode import Decoded, decode
from worker.pipeline.outcome import Applied
from worker.pipeline.transaction import apply_batch
from worker.postgres.durability import Flusher
from worker.postgres.migrations import migrate
from worker.postgres.pool import Database


def event_of(family: str) -> Decoded:
    """A documented event of the family, with a new id."""
    for example in documented():
        envelope = Envelope(
            provider=example.provider,
            event_type=example.event_type,
            event_id=uuid4(),
            content_id=UUID(int=0),
            received_at=EPOCH,
        )
        item = decode(FAMILIES[family], Delivery(1, "", envelope.to_headers(), example.body, False))
        if isinstance(item, Decoded):
            return item
    raise AssertionError(f"no example is of the family {family}")


@pytest.mark.parametrize("family", FAMILIES)
async def test_columns_that_are_added_meanwhile_cost_no_attempt(fresh_database: str, family: str) -> None:
    database = Database(fresh_database, 2, "test")
    other = await asyncpg.connect(fresh_database)
    try:
        await migrate(database)
        async with Flusher(database) as flusher:
            # The driver caches statements after their first use.
            await apply_batch(FAMILIES[family], flusher, [event_of(family)])
            await apply_batch(FAMILIES[family], flusher, [event_of(family)])
            for table in FAMILIES[family].tables:
                await other.execute(f"ALTER TABLE {table.name} ADD added_meanwhile int")
            report = await apply_batch(FAMILIES[family], flusher, [event_of(family)])
    finally:
        await other.close()
        await database.close()

    assert report.outcomes == (Applied(),)
