"""The last statement of a batch's transaction: communications, sequence numbers and changes."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from consumers.family import Communication, Connection, arrays
from schemas.changes import NO_CONTEXTS, Change, encode
from schemas.envelope import Envelope
from worker.outbox.changes import CHANNEL
from worker.postgres.findings import REQUIRE_COMMUNICATIONS, communication_rows
from worker.postgres.ledger import Disposition, number_rows

# In one statement, because each one is a round trip.
# - The sequence numbers: a repeat adds the same ones again, which changes nothing; the two counts are of
#   deliveries. Other transactions of the family wait for these rows until the commit.
# - The outbox: a transaction that changes an entity locks its row until the commit, so that the numbers of
#   one entity are in the order of its changes. Listeners are notified at the commit. Each connection has its
#   own counter: with a shared one, all transactions would wait for each other. Two connections that share a
#   counter wait for it after the sequence numbers, and so in one direction.
END_BATCH = f"""
WITH required AS (
    {REQUIRE_COMMUNICATIONS}
), numbered AS (
    INSERT INTO event_sequences AS recorded
        (source, family, seen, retrying, dead, voided, applied, duplicates, last_received_at)
    SELECT source, $6::text, seen::int8multirange, retrying::int8multirange, dead::int8multirange,
        voided::int8multirange, applied, duplicates, last_received_at
    FROM unnest($7::bigint[], $8::text[], $9::text[], $10::text[], $11::text[], $12::bigint[], $13::bigint[],
                $14::timestamptz[])
        AS batch (source, seen, retrying, dead, voided, applied, duplicates, last_received_at)
    ORDER BY source
    ON CONFLICT (source, family) DO UPDATE
    SET seen = recorded.seen + excluded.seen,
        retrying = recorded.retrying + excluded.retrying - excluded.seen - excluded.dead,
        dead = recorded.dead + excluded.dead - excluded.seen,
        voided = recorded.voided + excluded.voided,
        applied = recorded.applied + excluded.applied,
        duplicates = recorded.duplicates + excluded.duplicates,
        last_received_at = greatest(recorded.last_received_at, excluded.last_received_at)
    RETURNING source
), written AS (
    INSERT INTO changes (family, size, changes)
    SELECT $6, $15::integer, $16::bytea
    WHERE $15 > 0
), counted AS (
    INSERT INTO change_counts AS stored (family, state, slot, changes)
    SELECT $6, 'committed', pg_backend_pid() % 32, $15
    FROM (SELECT count(*) FROM numbered) AS after_the_numbers
    WHERE $15 > 0
    ON CONFLICT (family, state, slot) DO UPDATE
    SET changes = stored.changes + excluded.changes
)
SELECT pg_notify('{CHANNEL}', '')
WHERE $15 > 0
"""


async def end_batch(
    connection: Connection,
    family: str,
    dispositions: Sequence[tuple[Envelope, Disposition]],
    communications: Sequence[Communication] = (),
    changes: Sequence[Change] = (),
    contexts: Mapping[UUID, str] = NO_CONTEXTS,
) -> None:
    """Require the communications, record the sequence numbers of deliveries, and write the outbox.

    `contexts`: the `traceparent` of recorded events, by event id.
    """
    numbers = number_rows(dispositions)
    if not (numbers or communications or changes):
        return
    await connection.execute(
        END_BATCH,
        *arrays(communication_rows(communications), 5),
        family,
        *arrays(numbers, 8),
        len(changes),
        encode(changes, contexts) if changes else b"",
    )
