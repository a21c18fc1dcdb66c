"""The tables `event_log`, `event_ids`, `reused_event_ids`: applied events, which are never applied again."""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import structlog

from consumers.family import Connection, Event, Finding
from consumers.logged import read_logged
from schemas.envelope import Envelope
from schemas.event_schema import Payload
from worker.observability.backoff import repeat_until_stopping
from worker.observability.errors import safe_summary
from worker.postgres.locks import LOCK_NAME_IN_TRANSACTION, AdvisoryLockClass
from worker.postgres.pool import Database

log = structlog.get_logger(__name__)

# A replay conflicts with its own id and changes nothing. Sorted by event id, so that two
# transactions that claim the same events wait for each other in one direction.
CLAIM = """
WITH claimed AS (
    INSERT INTO event_ids (event_id, content_id, provider, received_at)
    SELECT event_id, content_id, $3, received_at
    FROM unnest($1::uuid[], $2::uuid[], $8::timestamptz[]) AS candidates (event_id, content_id, received_at)
    ON CONFLICT (event_id) DO NOTHING
    RETURNING event_id
)
INSERT INTO event_log
    (event_id, provider, family, type, entity_id, occurred_at, received_at, body, attempt, evidence)
SELECT event_id, $3, $4, type, entity_id, occurred_at, received_at, body, coalesce(attempt, 1),
    evidence::jsonb
FROM unnest($1::uuid[], $5::text[], $6::text[], $7::timestamptz[], $8::timestamptz[], $9::bytea[],
            $10::smallint[], $11::text[])
    AS candidates (event_id, type, entity_id, occurred_at, received_at, body, attempt, evidence)
JOIN claimed USING (event_id)
RETURNING event_id
"""

# The same for events whose id is taken by another event. A replay conflicts with its own id and content.
# Consumers of an earlier release, which may still run, log such an event with reuse_of.
CLAIM_REUSED = """
WITH candidates AS (
    SELECT *
    FROM unnest($1::uuid[], $2::uuid[], $5::text[], $6::text[], $7::timestamptz[], $8::timestamptz[],
                $9::bytea[], $10::smallint[], $11::text[])
        AS candidates (event_id, content_id, type, entity_id, occurred_at, received_at, body, attempt,
                       evidence)
), claimed AS (
    INSERT INTO reused_event_ids (event_id, provider, content_id, received_at)
    SELECT event_id, $3, content_id, received_at
    FROM candidates
    WHERE NOT EXISTS (
        SELECT
        FROM event_log AS logged
        JOIN event_ids ON event_ids.event_id = logged.event_id
        WHERE logged.entity_id = candidates.entity_id
            AND logged.reuse_of = candidates.event_id
            AND event_ids.content_id = candidates.content_id
    )
    ON CONFLICT (event_id, provider, content_id) DO NOTHING
    RETURNING event_id, content_id
)
INSERT INTO event_log
    (event_id, content_id, provider, family, type, entity_id, occurred_at, received_at, body, attempt,
     evidence)
SELECT event_id, content_id, $3, $4, type, entity_id, occurred_at, received_at, body, coalesce(attempt, 1),
    evidence::jsonb
FROM candidates
JOIN claimed USING (event_id, content_id)
RETURNING event_id, content_id
"""

LOGGED_CONTENTS = """
SELECT event_id, content_id, received_at
FROM event_ids
WHERE event_id = ANY($1::uuid[])
"""

REUSED_RECEPTIONS = """
SELECT event_id, content_id, received_at
FROM reused_event_ids
WHERE event_id = ANY($1::uuid[]) AND provider = $2
"""

# The earliest reception is stored; a replay changes nothing. Consumers may not update the log otherwise: the
# function runs as its owner.
STORE_EARLIER = """
SELECT number
FROM keep_earlier_receptions($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5) AS number
"""

EVENTS_OF = """
SELECT coalesce(reuse_of, event_id) AS event_id, provider, received_at, body
FROM event_log
WHERE entity_id = ANY($1::text[]) AND family = $2
"""

FINDINGS_OF = """
SELECT kind, entity_id, event_id, message
FROM findings
WHERE family = $2 AND entity_id = ANY($1::text[])
"""

LOG_IS_CUT = "SELECT EXISTS (SELECT FROM event_log_dropped) AS is_cut"

# The ids with which one marketplace sent several contents.
REUSED = """
SELECT event_id
FROM (
    SELECT event_id, content_id
    FROM reused_event_ids
    WHERE event_id = ANY($1::uuid[]) AND provider = $2
    UNION
    SELECT event_id, content_id
    FROM event_ids
    WHERE event_id = ANY($1::uuid[]) AND coalesce(provider, $2) = $2
) AS contents
GROUP BY event_id
HAVING count(*) > 1
"""

# Matches ids and contents independently, so that every planner uses the keys: see `logged`.
LOGGED = """
SELECT event_id, content_id
FROM event_ids
WHERE event_id = ANY($1::uuid[]) AND content_id = ANY($2::uuid[])
UNION ALL
SELECT event_id, content_id
FROM reused_event_ids
WHERE event_id = ANY($1::uuid[]) AND content_id = ANY($2::uuid[])
"""

# The partitions of the log for two months, so that writes succeed if this does not run for weeks.
ADD_MONTHS = "SELECT add_event_log_months(now(), now() + interval '2 months')"

# The maximum of a smallint.
MOST_ATTEMPTS = 32_767

ADD_MONTHS_EVERY_SECONDS = 24 * 3600.0


# Candidates by their id and content.
Positions = dict[tuple[UUID, UUID], int]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A valid event that may or may not have been applied before."""

    envelope: Envelope
    payload: Payload
    body: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """The positions of new candidates, and findings about ids with several contents.

    `corrected` are candidates that are in the log with a later reception.
    """

    positions: frozenset[int]
    findings: tuple[Finding, ...]
    corrected: frozenset[int] = frozenset()


async def claim(connection: Connection, family: str, candidates: Sequence[Candidate]) -> Claim:
    """Log the new candidates, in the transaction that applies them.

    Two candidates are the same event if their ids and their contents are the same. An id with
    other content than in the log, or from another marketplace, is another event. Of several copies, the one
    that was received first counts.
    """
    firsts = {envelope.event_id: position for position, envelope in _backwards(candidates)}
    claimed = {
        row["event_id"] for row in await _insert(connection, CLAIM, family, candidates, firsts.values())
    }
    if len(claimed) == len(candidates):
        return Claim(frozenset(firsts.values()), ())

    contents = {
        event_id: candidates[position].envelope.content_id
        for event_id, position in firsts.items()
        if event_id in claimed
    }
    unclaimed = list(firsts.keys() - claimed)
    rows = await connection.fetch(LOGGED_CONTENTS, unclaimed) if unclaimed else []
    contents |= {row["event_id"]: row["content_id"] for row in rows}
    new = {firsts[event_id] for event_id in claimed}
    repeated: Positions = {}
    others: Positions = {}
    for position, envelope in _backwards(candidates):
        if contents[envelope.event_id] != envelope.content_id:
            others[envelope.event_id, envelope.content_id] = position
        elif envelope.event_id not in claimed:
            repeated[envelope.event_id, envelope.content_id] = position
    reused = await _claim_reused(connection, family, candidates, others) if others else Claim(frozenset(), ())
    corrected = await _store_earlier(connection, family, candidates, repeated, rows)
    return Claim(frozenset(new | reused.positions), reused.findings, corrected | reused.corrected)


async def _claim_reused(
    connection: Connection, family: str, candidates: Sequence[Candidate], others: Positions
) -> Claim:
    """Log the new events among candidates whose ids are taken by other events."""
    for event_id in sorted({event_id for event_id, _ in others}):
        # Of two transactions that claim different contents under one id, the later one sees both.
        await connection.execute(LOCK_NAME_IN_TRANSACTION, AdvisoryLockClass.EVENT_ID, str(event_id))
    rows = await _insert(connection, CLAIM_REUSED, family, candidates, others.values())
    claimed = {(row["event_id"], row["content_id"]) for row in rows}
    provider = candidates[0].envelope.provider.value
    reused = (
        await connection.fetch(REUSED, [event_id for event_id, _ in claimed], provider) if claimed else []
    )
    findings = tuple(_id_used_twice(row["event_id"]) for row in reused)
    repeated = {key: position for key, position in others.items() if key not in claimed}
    receptions = (
        await connection.fetch(REUSED_RECEPTIONS, [event_id for event_id, _ in repeated], provider)
        if repeated
        else []
    )
    corrected = await _store_earlier(connection, family, candidates, repeated, receptions)
    return Claim(frozenset(others[key] for key in claimed), findings, corrected)


async def _store_earlier(
    connection: Connection,
    family: str,
    candidates: Sequence[Candidate],
    repeated: Positions,
    logged: Iterable[Mapping[str, Any]],
) -> frozenset[int]:
    """Store earlier receptions of logged candidates, and return the positions of these candidates."""
    logged_receptions = {(row["event_id"], row["content_id"]): row["received_at"] for row in logged}
    earlier = [
        position
        for key, position in sorted(repeated.items())
        if (logged_at := logged_receptions.get(key)) is None
        or candidates[position].envelope.received_at < logged_at
    ]
    if not earlier:
        return frozenset()
    chosen = [candidates[position] for position in earlier]
    rows = await connection.fetch(
        STORE_EARLIER,
        [candidate.envelope.event_id for candidate in chosen],
        [candidate.envelope.content_id for candidate in chosen],
        [candidate.payload.entity_id for candidate in chosen],
        [candidate.envelope.received_at for candidate in chosen],
        family,
    )
    return frozenset(earlier[row["number"] - 1] for row in rows)


def _backwards(candidates: Sequence[Candidate]) -> Iterator[tuple[int, Envelope]]:
    """In reverse order of reception: in a mapping, the first received of several candidates remains."""
    envelopes = [candidate.envelope for candidate in candidates]
    positions = range(len(candidates))
    for position in sorted(positions, key=lambda one: (envelopes[one].received_at, one), reverse=True):
        yield position, envelopes[position]


async def _insert(
    connection: Connection,
    statement: str,
    family: str,
    candidates: Sequence[Candidate],
    positions: Iterable[int],
) -> list[Any]:
    chosen = sorted((candidates[position] for position in positions), key=_by_id)
    envelopes = [candidate.envelope for candidate in chosen]
    payloads = [candidate.payload for candidate in chosen]
    return await connection.fetch(
        statement,
        [envelope.event_id for envelope in envelopes],
        [envelope.content_id for envelope in envelopes],
        envelopes[0].provider.value,
        family,
        [envelope.event_type for envelope in envelopes],
        [payload.entity_id for payload in payloads],
        [payload.occurred_at for payload in payloads],
        [envelope.received_at for envelope in envelopes],
        [candidate.body for candidate in chosen],
        _attempts(envelopes),
        _evidence(envelopes),
    )


def _by_id(candidate: Candidate) -> tuple[int, int]:
    envelope = candidate.envelope
    return envelope.event_id.int, envelope.content_id.int


def _attempts(envelopes: Sequence[Envelope]) -> list[int]:
    """The number of each attempt; an empty list if all are first attempts, as nearly always."""
    attempts = [min(envelope.attempt, MOST_ATTEMPTS) for envelope in envelopes]
    return attempts if max(attempts) > 1 else []


def _evidence(envelopes: Sequence[Envelope]) -> list[str | None]:
    """The evidence of each as JSON, or nothing where none has any, as without a gateway."""
    evidence = [envelope.evidence for envelope in envelopes]
    return [orjson.dumps(each).decode() if each else None for each in evidence] if any(evidence) else []


def _id_used_twice(event_id: UUID) -> Finding:
    message = "sent with different contents; each was applied"
    return Finding("event_id_reused", str(event_id), event_id, message)


@dataclass(frozen=True, slots=True)
class LoggedPast:
    """The stored events and findings of a family's entities."""

    family: str
    tolerance: timedelta

    async def events(self, connection: Connection, entities: Collection[str]) -> Sequence[Event[Any]] | None:
        """None if events were dropped from the log, or cannot be read."""
        [cut] = await connection.fetch(LOG_IS_CUT)
        if cut["is_cut"]:
            return None
        rows = await connection.fetch(EVENTS_OF, sorted(entities), self.family)
        read = [read_logged(row, self.tolerance) for row in rows]
        events = [event for event in read if event is not None]
        return events if len(events) == len(read) else None

    async def findings(self, connection: Connection, entities: Collection[str]) -> set[Finding]:
        rows = await connection.fetch(FINDINGS_OF, sorted(entities), self.family)
        return {Finding(*row) for row in rows}


async def add_months_regularly(database: Database, stopping: asyncio.Event) -> None:
    """Add the partitions of the coming months, until shutdown. After a failure, two months are left."""

    async def add_months() -> None:
        async with database.connection() as connection:
            await connection.execute(ADD_MONTHS)

    def warn(error: Exception) -> None:
        log.warning("event_log.months_failed", error=safe_summary(error))

    await repeat_until_stopping(add_months, ADD_MONTHS_EVERY_SECONDS, stopping, warn)


async def logged(connection: Connection, events: Collection[tuple[UUID, UUID]]) -> set[tuple[UUID, UUID]]:
    """Those of these events that are in the log, by event id and content id.

    The content id depends on the marketplace.
    """
    rows = await connection.fetch(LOGGED, *map(list, zip(*events, strict=True)))
    return set(events) & {(row["event_id"], row["content_id"]) for row in rows}
