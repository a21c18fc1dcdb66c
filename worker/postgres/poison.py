"""Events that may have killed their consumer.

A delivery that was lost twice may have ended its consumer both times, with innocent neighbours. Each is
therefore handled alone, and before that its try is committed here. An event that is found here again
and again is the killer; no neighbour of it ever is. (A delivery limit of the broker's counts for all
that were in hand, so it cannot tell them apart.)

One loss is no reason for suspicion: a broker node that dies, a failover or a restart of a consumer returns
whole windows of deliveries, and to handle each of them alone would take minutes.
"""

from datetime import datetime
from uuid import UUID

from worker.amqp.tap import Delivery
from worker.postgres.pool import Database

# Added by quorum queues: how often the message was delivered and came back because its consumer was lost.
LOSSES_HEADER = "x-delivery-count"
LOSSES = 2

# How often an event may end its consumer while it is handled alone.
TRIES = 5

# The column event_id holds an id made from the event id and the body: several events may share an event id.
NOTE_TRY = """
INSERT INTO suspects AS known (event_id, family, tries, last_tried_at)
VALUES ($1, $2, 1, $3)
ON CONFLICT (event_id) DO UPDATE
SET tries = known.tries + CASE WHEN known.last_tried_at = $3 THEN 0 ELSE 1 END,
    last_tried_at = $3
RETURNING tries
"""

CLEAR = """
DELETE FROM suspects
WHERE event_id = $1
"""


def is_suspect(delivery: Delivery) -> bool:
    losses = delivery.headers.get(LOSSES_HEADER)
    return delivery.redelivered and isinstance(losses, int) and losses >= LOSSES


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
