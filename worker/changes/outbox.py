"""The table `changes`: written in the transaction of a change, emptied once the change is published."""

from collections.abc import Collection, Sequence
from typing import Any
from zlib import crc32

from consumers.family import Connection
from schemas.changes import Change

# As many as the table `change_lanes` has.
LANES = 16

CHANNEL = "stockhook_changes"

# Sequence numbers are given in the order of the rows. Whoever changes an entity holds its row's lock
# until the commit, so that the numbers of one entity are in the order of its changes.
WRITE = f"""
WITH written AS (
    INSERT INTO changes (lane, type, subject, occurred_at, data)
    SELECT lane, type, subject, occurred_at, data
    FROM unnest($1::smallint[], $2::text[], $3::text[], $4::timestamptz[], $5::bytea[])
        WITH ORDINALITY AS told (lane, type, subject, occurred_at, data, position)
    ORDER BY position
    RETURNING 1
)
SELECT pg_notify('{CHANNEL}', '')
FROM (SELECT count(*) FROM written) AS all_of_them
"""

# Lanes that others publish are left to them.
LOCK_LANES = """
SELECT lane
FROM change_lanes
ORDER BY lane
FOR UPDATE SKIP LOCKED
"""

TAKE = """
SELECT lane, sequence, change_id, type, subject, occurred_at, changed_at, data
FROM changes
WHERE lane = ANY($1::smallint[])
ORDER BY sequence
LIMIT $2
"""

DELETE = """
DELETE FROM changes
USING unnest($1::smallint[], $2::bigint[]) AS told (lane, sequence)
WHERE changes.lane = told.lane AND changes.sequence = told.sequence
"""


async def write(connection: Connection, changes: Sequence[Change]) -> None:
    """Write them to be published; who listens hears of it with the commit."""
    if not changes:
        return
    await connection.execute(
        WRITE,
        [lane_of(change.subject) for change in changes],
        [change.type for change in changes],
        [change.subject for change in changes],
        [change.occurred_at for change in changes],
        [change.data() for change in changes],
    )


def lane_of(subject: str) -> int:
    return crc32(subject.encode()) % LANES


async def take(connection: Connection, limit: int) -> list[Any]:
    """The first rows to be published, oldest first, held until the end of the transaction."""
    lanes = [row["lane"] for row in await connection.fetch(LOCK_LANES)]
    # What was committed before the lanes were free is seen only by a statement that begins after.
    return await connection.fetch(TAKE, lanes, limit) if lanes else []


async def delete(connection: Connection, rows: Collection[Any]) -> None:
    await connection.execute(DELETE, [row["lane"] for row in rows], [row["sequence"] for row in rows])
