"""Rows of the outbox, as a relay claims them."""

from tests.support.applied_events import database_of
from tests.support.stack import Stack
from worker.outbox import changes as outbox

WRITE = """
INSERT INTO changes (family, size, changes)
SELECT family, size, ''
FROM unnest($1::text[], $2::integer[]) WITH ORDINALITY AS row (family, size, number)
ORDER BY number
"""


async def test_a_relay_claims_rows_up_to_its_limit_of_changes(stack: Stack) -> None:
    async with database_of(stack) as database:
        async with database.transaction() as connection:
            rows = [("inventory", 1), ("orders", 9), ("inventory", 3), ("inventory", 5), ("inventory", 1)]
            await connection.execute(WRITE, *map(list, zip(*rows, strict=True)))
        claimed = []
        for _ in range(3):
            async with database.transaction() as connection:
                claimed.append([row["family"] for row in await outbox.claim(connection, 4)])

    assert claimed == [["inventory", "orders", "inventory"], ["inventory"], ["inventory"]]
