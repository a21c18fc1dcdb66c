"""Events that may have ended their consumer.

Each is handled alone (worker/pipeline/isolation.py), and before that its try is committed here. An event that
is found here again and again is the poison message; no other event in flight ever is. A delivery limit of the
broker counts for all deliveries in flight, so it cannot tell them apart.
"""

from datetime import datetime
from uuid import UUID

from worker.postgres.pool import Database

# How often an event may end its consumer while it is handled alone.
TRIES = 5

# The candidate id is made from the event id and the body: several events may share an event id.
NOTE_TRY = """
INSERT INTO poison_candidates AS known (candidate_id, family, tries, last_tried_at)
VALUES ($1, $2, 1, $3)
ON CONFLICT (candidate_id) DO UPDATE
SET tries = known.tries + CASE WHEN known.last_tried_at = $3 THEN 0 ELSE 1 END,
    last_tried_at = $3
RETURNING tries
"""

CLEAR = """
DELETE FROM poison_candidates
WHERE candidate_id = $1
"""


async def note_try(database: Database, family: str, suspect_id: UUID, at: datetime) -> int:
    """Commit that an event is about to be handled alone; how often that was so far, with this time.

    `at` identifies the try: one that is noted again, because the answer to its commit was lost, counts once.

    Raises:
        DatabaseUnavailable
    """
    async with database.transaction() as connection:
        return int(await connection.fetchval(NOTE_TRY, suspect_id, family, at))


async def clear(database: Database, suspect_id: UUID) -> None:
    """It was handled and we are still here.

    Raises:
        DatabaseUnavailable
    """
    async with database.connection() as connection:
        await connection.execute(CLEAR, suspect_id)
