"""The tables `event_log` and `event_ids`: what was applied, and must not be applied again."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from uuid import UUID

import structlog

from consumers.family import Communication, Connection, Effects, Finding
from schemas.envelope import Envelope
from schemas.events import Payload
from schemas.identity import another_id
from worker.database import Database
from worker.failure import describe
from worker.patience import pause

log = structlog.get_logger(__name__)

# A replay conflicts with its own id and changes nothing. Sorted by event id, so that two
# transactions that claim the same events wait for each other in one direction.
CLAIM = """
WITH claimed AS (
    INSERT INTO event_ids (event_id, content_id)
    SELECT *
    FROM unnest($1::uuid[], $2::uuid[])
    ON CONFLICT (event_id) DO NOTHING
    RETURNING event_id
)
INSERT INTO event_log
    (event_id, reuse_of, provider, family, type, entity_id, occurred_at, received_at, body, attempt)
SELECT event_id, reuse_of, $4, $5, type, entity_id, occurred_at, received_at, body, coalesce(attempt, 1)
FROM unnest($1::uuid[], $3::uuid[], $6::text[], $7::text[], $8::timestamptz[], $9::timestamptz[],
            $10::bytea[], $11::smallint[])
    AS told (event_id, reuse_of, type, entity_id, occurred_at, received_at, body, attempt)
JOIN claimed USING (event_id)
RETURNING event_id
"""

LOGGED_CONTENTS = """
SELECT event_id, content_id
FROM event_ids
WHERE event_id = ANY($1::uuid[])
"""

# The log's partitions, two months ahead: who made none for so long still has where to write.
ADD_MONTHS = "SELECT add_event_log_months(now(), now() + interval '2 months')"

# A replay finds its own row there and changes nothing.
NOTE_FINDINGS = """
INSERT INTO findings (kind, family, entity_id, event_id, words)
SELECT *
FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::text[])
ON CONFLICT (family, entity_id, kind, event_id) DO UPDATE
SET words = greatest(findings.words, excluded.words)
WHERE findings.words < excluded.words
"""

WITHDRAW_FINDINGS = """
DELETE FROM findings
USING unnest($2::text[], $3::text[], $4::uuid[]) AS withdrawn (kind, entity_id, event_id)
WHERE findings.family = $1
    AND findings.entity_id = withdrawn.entity_id
    AND findings.kind = withdrawn.kind
    AND findings.event_id = withdrawn.event_id
"""

# A replay finds its own row there and changes nothing.
CALL_FOR_COMMUNICATIONS = """
INSERT INTO communications (event_id, kind, order_id, item_id, occurred_at)
SELECT *
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
ON CONFLICT (event_id, kind) DO NOTHING
"""

# What a smallint holds.
MOST_ATTEMPTS = 32_767

ADD_MONTHS_EVERY_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A valid event that may or may not have been applied before."""

    envelope: Envelope
    payload: Payload
    body: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """The candidates that are new, by position, and findings about ids that were used twice."""

    positions: frozenset[int]
    findings: tuple[Finding, ...]


async def claim(connection: Connection, family: str, candidates: Sequence[Candidate]) -> Claim:
    """Log the candidates that are new; the transaction that does so is the one that applies them.

    An id that comes with other content than it has in the log is an event of its own: it is logged
    under another id, made from both.
    """
    firsts = _firsts(candidates)
    keys = {candidates[position].envelope.event_id: position for position in firsts}
    claimed = await _insert(connection, family, candidates, keys, reuse=False)
    if len(claimed) == len(candidates):
        return Claim(frozenset(keys.values()), ())
    new = {keys[event_id] for event_id in claimed}

    envelopes = [candidates[position].envelope for position in new]
    contents = {envelope.event_id: envelope.content_id for envelope in envelopes}
    unclaimed = list(keys.keys() - claimed)
    if unclaimed:
        rows = await connection.fetch(LOGGED_CONTENTS, unclaimed)
        contents |= {row["event_id"]: row["content_id"] for row in rows}
    reused = {
        another_id(envelope.event_id, envelope.content_id): position
        for position, candidate in enumerate(candidates)
        if contents[(envelope := candidate.envelope).event_id] != envelope.content_id
    }
    if reused:
        claimed = await _insert(connection, family, candidates, reused, reuse=True)
        new |= {reused[event_id] for event_id in claimed}
    findings = {_id_used_twice(candidates[position].envelope.event_id) for position in reused.values()}
    return Claim(frozenset(new), tuple(findings))


def _firsts(candidates: Sequence[Candidate]) -> list[int]:
    """Of candidates in one batch that share an event id, the first."""
    by_id: dict[UUID, int] = {}
    for position, candidate in enumerate(candidates):
        by_id.setdefault(candidate.envelope.event_id, position)
    return list(by_id.values())


async def _insert(
    connection: Connection,
    family: str,
    candidates: Sequence[Candidate],
    keys: dict[UUID, int],
    *,
    reuse: bool,
) -> set[UUID]:
    event_ids = sorted(keys, key=attrgetter("int"))
    chosen = [candidates[keys[event_id]] for event_id in event_ids]
    envelopes = [candidate.envelope for candidate in chosen]
    payloads = [candidate.payload for candidate in chosen]
    claimed = await connection.fetch(
        CLAIM,
        event_ids,
        [envelope.content_id for envelope in envelopes],
        # What is not there counts as null.
        [envelope.event_id for envelope in envelopes] if reuse else [],
        envelopes[0].provider.value,
        family,
        [envelope.event_type for envelope in envelopes],
        [payload.entity_id for payload in payloads],
        [payload.occurred_at for payload in payloads],
        [envelope.received_at for envelope in envelopes],
        [candidate.body for candidate in chosen],
        _attempts(envelopes),
    )
    return {row["event_id"] for row in claimed}


def _attempts(envelopes: Sequence[Envelope]) -> list[int]:
    """The number of each, or nothing where each is the first, as nearly always."""
    attempts = [min(envelope.attempt, MOST_ATTEMPTS) for envelope in envelopes]
    return attempts if max(attempts) > 1 else []


def _id_used_twice(event_id: UUID) -> Finding:
    words = "sent with different contents; each was applied"
    return Finding("event_id_reused", str(event_id), event_id, words)


async def note(connection: Connection, family: str, effects: Effects) -> None:
    """Write what a batch gave rise to beside its rows."""
    if effects.withdrawn:
        rows = [(found.kind, found.entity_id, found.event_id) for found in effects.withdrawn]
        await connection.execute(WITHDRAW_FINDINGS, family, *map(list, zip(*rows, strict=True)))
    if effects.findings:
        await _note_findings(connection, family, effects.findings)
    if effects.communications:
        await _call_for(connection, effects.communications)


async def note_reuse(connection: Connection, findings: Sequence[Finding]) -> None:
    """Note ids that were used twice: of no family, since the same id may come to several."""
    if findings:
        await _note_findings(connection, "any", findings)


async def _note_findings(connection: Connection, family: str, findings: Iterable[Finding]) -> None:
    # An id that was used twice can give one key two findings: the greater words stand.
    words: dict[tuple[str, str, str, UUID | None], str] = {}
    for found in findings:
        key = (found.kind, family, found.entity_id, found.event_id)
        words[key] = max(found.words, words.get(key, ""))
    rows = sorted((*key, said) for key, said in words.items())
    await connection.execute(NOTE_FINDINGS, *map(list, zip(*rows, strict=True)))


async def _call_for(connection: Connection, communications: Sequence[Communication]) -> None:
    rows = sorted(
        (call.event_id, call.kind.value, call.order_id, call.item_id, call.occurred_at)
        for call in communications
    )
    await connection.execute(CALL_FOR_COMMUNICATIONS, *map(list, zip(*rows, strict=True)))


async def add_months_regularly(database: Database, stopping: asyncio.Event) -> None:
    """See to it that the coming months have partitions, until we stop."""
    while not stopping.is_set():
        try:
            async with database.connection() as connection:
                await connection.execute(ADD_MONTHS)
        except Exception as error:
            # Tomorrow will do: the months are two ahead.
            log.warning("event_log.months_failed", error=describe(error))
        await pause(ADD_MONTHS_EVERY_SECONDS, stopping)
