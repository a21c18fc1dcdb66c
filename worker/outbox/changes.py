"""The table `changes`: written at the end of a batch (batch_end.py), emptied once they are published."""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from consumers.family import Connection

CHANNEL = "stockhook_changes"

# Skips families that another relay publishes.
LOCK_FAMILIES = """
SELECT family
FROM change_locks
WHERE EXISTS (SELECT FROM changes WHERE changes.family = change_locks.family)
ORDER BY family
FOR UPDATE SKIP LOCKED
"""

# Each change of an entity waits for the confirm of the previous one, which may take long.
ALLOW_LONG_IDLE = "SET LOCAL idle_in_transaction_session_timeout = '60s'"

# Deleted by the commit, which follows the confirms.
CLAIM = """
DELETE FROM changes
USING (
    SELECT first.family, first.sequence
    FROM unnest($1::text[]) AS locked (family)
    CROSS JOIN LATERAL (
        SELECT family, sequence, sum(size) OVER (ORDER BY sequence) - size AS changes_before
        FROM changes
        WHERE changes.family = locked.family
        ORDER BY sequence
        LIMIT $2
    ) AS first
    WHERE changes_before < $2
) AS taken
WHERE changes.family = taken.family AND changes.sequence = taken.sequence
RETURNING changes.family, changes.sequence, batch_id, changed_at, changes
"""

# In the transaction that deletes the changes: if they are published again, they were not counted.
COUNT_PUBLISHED = """
INSERT INTO change_counts AS stored (family, state, slot, changes)
SELECT family, 'published', 0, published
FROM unnest($1::text[], $2::bigint[]) AS batch (family, published)
ON CONFLICT (family, state, slot) DO UPDATE
SET changes = stored.changes + excluded.changes
"""

OLDEST = """
SELECT coalesce(extract(epoch FROM now() - min(first.changed_at)), 0)::float8 AS seconds
FROM change_locks
CROSS JOIN LATERAL (
    SELECT changed_at
    FROM changes
    WHERE changes.family = change_locks.family
    ORDER BY sequence
    LIMIT 1
) AS first
"""


async def oldest(connection: Connection) -> float:
    """The age of the oldest waiting change in seconds; 0 if none waits."""
    (row,) = await connection.fetch(OLDEST)
    return float(row["seconds"])


async def claim(connection: Connection, limit: int) -> list[Any]:
    """The first rows of each family that no other relay has locked, in their order.

    The last row of a family may exceed the `limit` of changes, because a row is not split. The commit deletes
    them, so publish them before it.
    """
    families = [row["family"] for row in await connection.fetch(LOCK_FAMILIES)]
    if not families:
        return []
    await connection.execute(ALLOW_LONG_IDLE)
    # What was committed before the locks were free is seen only by a statement that begins after.
    return sorted(await connection.fetch(CLAIM, families, limit), key=itemgetter("sequence"))


async def count_published(connection: Connection, published: Mapping[str, int]) -> None:
    await connection.execute(COUNT_PUBLISHED, list(published), list(published.values()))
