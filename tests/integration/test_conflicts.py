"""Two consumers write the same rows, and neither overwrites the other's result."""

import asyncio

import pytest

from consumers.family import Event, WriteConflict
from consumers.registry import FAMILIES
from tests.support.events import claimed, returned
from tests.support.stack import Stack
from worker.postgres.pool import Connection, Database

RETURNS = FAMILIES["returns"]


async def apply(connection: Connection, event: Event[object]) -> None:
    loaded = await RETURNS.load(connection, [event], lock=True)
    await RETURNS.save(connection, [RETURNS.decide(loaded.get("77"), event).state])


async def test_a_result_computed_from_an_outdated_row_is_not_written(stack: Stack) -> None:
    """Both load a return that does not exist yet, so neither locks it; both write."""
    database = Database(stack.environment["STOCKHOOK_DATABASE_URL"], 2, "test")
    early, late = (claimed(returned("order.return.updated", second), second) for second in (1, 2))
    try:
        async with database.transaction() as slow:
            loaded = await RETURNS.load(slow, [late], lock=True)
            async with database.transaction() as quick:
                await apply(quick, early)
            with pytest.raises(WriteConflict):
                await RETURNS.save(slow, [RETURNS.decide(loaded.get("77"), late).state])
        async with database.transaction() as again:
            await apply(again, late)
    finally:
        await database.close()

    assert (await stack.fetch("SELECT update_count FROM returns"))[0]["update_count"] == 2


async def test_many_at_once_on_the_same_rows_all_count(stack: Stack) -> None:
    database = Database(stack.environment["STOCKHOOK_DATABASE_URL"], 8, "test")

    async def apply_until_written(number: int) -> None:
        while True:
            try:
                async with database.transaction() as connection:
                    await apply(connection, claimed(returned("order.return.updated", number), number))
                return
            except WriteConflict:
                await asyncio.sleep(0)

    await asyncio.gather(*map(apply_until_written, range(40)))
    await database.close()

    assert (await stack.fetch("SELECT update_count FROM returns"))[0]["update_count"] == 40
