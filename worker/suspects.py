"""Events that may have killed their consumer.

A delivery that comes again was in the hands of a process that died, with innocent neighbours. Each is
therefore handled alone, and before that its try is committed here. An event that is found here again
and again is the killer; no neighbour of it ever is. (A delivery limit of the broker's counts for all
that were in hand, so it cannot tell them apart.)
"""

from uuid import UUID

from worker.database import Database

# How often an event may end its consumer while it is handled alone.
TRIES = 5

# The column event_id holds an id made from the event id and the body: several events may share an event id.
NOTE_TRY = """
INSERT INTO suspects AS known (event_id, family, tries)
VALUES ($1, $2, 1)
ON CONFLICT (event_id) DO UPDATE
SET tries = known.tries + 1,
    last_tried_at = now()
RETURNING tries
"""

CLEAR = """
DELETE FROM suspects
WHERE event_id = $1
"""


async def note_try(database: Database, family: str, suspect_id: UUID) -> int:
    """Commit that an event is about to be handled alone; how often that was so far, with this time.

    Raises:
        DatabaseUnavailable
    """
    async with database.transaction() as connection:
        return int(await connection.fetchval(NOTE_TRY, suspect_id, family))


async def clear(database: Database, suspect_id: UUID) -> None:
    """It was handled and we are still here.

    Raises:
        DatabaseUnavailable
    """
    async with database.connection() as connection:
        await connection.execute(CLEAR, suspect_id)
