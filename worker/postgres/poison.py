"""Poison messages: messages that may have ended their consumer.

Each is handled in isolation (worker/pipeline/isolation.py), after this try is committed here. A message with
TRIES tries ended its consumer each time, since nothing else was in flight. The broker's delivery limit
cannot show that: it counts for every delivery that was in flight.
"""

from datetime import datetime
from uuid import UUID

from worker.postgres.pool import Database

# How often a message may end its consumer in isolation.
TRIES = 5

# The candidate id is made from the event id and the body: several events may share an event id.
NOTE_TRY = """
INSERT INTO poison_candidates AS stored (candidate_id, family, tries, last_tried_at)
VALUES ($1, $2, 1, $3)
ON CONFLICT (candidate_id) DO UPDATE
SET tries = stored.tries + CASE WHEN stored.last_tried_at = $3 THEN 0 ELSE 1 END,
    last_tried_at = $3
RETURNING tries
"""

CLEAR = """
DELETE FROM poison_candidates
WHERE candidate_id = $1
"""


async def note_try(database: Database, family: str, candidate_id: UUID, at: datetime) -> int:
    """Commit that a message is about to be handled in isolation, and return the number of its tries.

    `at` identifies the try: if it is noted again, because the answer to its commit was lost, it counts once.

    Raises:
        DatabaseUnavailable
    """
    async with database.transaction() as connection:
        return int(await connection.fetchval(NOTE_TRY, candidate_id, family, at))


async def clear(database: Database, candidate_id: UUID) -> None:
    """Delete the tries of a message whose consumer still runs after it was handled.

    Raises:
        DatabaseUnavailable
    """
    async with database.connection() as connection:
        await connection.execute(CLEAR, candidate_id)
