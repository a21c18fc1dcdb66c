"""The rows of a buyback order, its items and its shipments are written together."""

import pytest

from consumers.family import WriteConflict
from consumers.registry import FAMILIES
from tests.support.applied_events import apply, database_of, item
from tests.support.events import Document, buyback, claimed, snapshot
from tests.support.events import item as buyback_item
from tests.support.stack import Stack
from worker.postgres.pool import Database

BUYBACKS = FAMILIES["buybacks"]

# A row has another xmin once it is written again.
VERSIONS = """
SELECT order_id AS row, xmin::text AS version FROM buyback_orders
UNION ALL
SELECT item_id, xmin::text FROM buyback_items
UNION ALL
SELECT tracking_code, xmin::text FROM buyback_shipments
"""


def created() -> Document:
    order = {
        "id": "o1",
        "items": [buyback_item("i1"), buyback_item("i2")],
        "shipments": [{"trackingCode": "T1", "carrier": "UPS"}],
    }
    return buyback("OrderCreatedEvent", 1, id="o1", order=order)


def inspected() -> Document:
    """It states nothing about the other item and the shipment."""
    entry = {"id": "i1", "status": "Finalized"}
    return buyback("CollectionItemFinalizedEvent", 2, collectionId="o1", itemId="i1", items=[entry])


async def versions(stack: Stack) -> dict[str, str]:
    return {row["row"]: row["version"] for row in await stack.fetch(VERSIONS)}


async def test_rows_that_an_event_does_not_change_are_not_written(stack: Stack) -> None:
    await apply(stack, "buybacks", [item(created())])
    before = await versions(stack)
    await apply(stack, "buybacks", [item(inspected())])
    after = await versions(stack)

    assert set(before) == set(after) == {"o1", "i1", "i2", "T1"}
    assert {row for row in after if after[row] != before[row]} == {"o1", "i1"}


async def test_a_row_is_written_that_only_the_first_event_of_a_batch_changes(stack: Stack) -> None:
    await apply(stack, "buybacks", [item(created())])
    await apply(stack, "buybacks", [item(inspected()), item(inspected())])

    [row] = await stack.fetch("SELECT status FROM buyback_items WHERE item_id = 'i1'")
    assert row["status"] == "finalized"


async def test_no_row_of_an_outdated_order_is_written(stack: Stack) -> None:
    """Both load an order that does not exist yet, so neither locks it; both write."""
    early = claimed(snapshot("OrderDropOffPendingEvent", 1, items=(buyback_item("i1"),)), 1)
    late = claimed(snapshot("CollectionItemReceivedEvent", 2, items=(buyback_item("i2"),)), 2)

    async def write_both(database: Database) -> None:
        async with database.transaction() as slow:
            assert await BUYBACKS.load(slow, [late], lock=True) == {}
            async with database.transaction() as quick:
                await BUYBACKS.save(quick, [BUYBACKS.decide(None, early).state])
            await BUYBACKS.save(slow, [BUYBACKS.decide(None, late).state])

    async with database_of(stack) as database:
        with pytest.raises(WriteConflict):
            await write_both(database)

    assert set(await versions(stack)) == {"o1", "i1"}
