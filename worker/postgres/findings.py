"""The tables `findings` and `communications`: what the events of a batch lead to besides rows."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from consumers.effects import Effects
from consumers.family import Communication, Connection, Finding

# A replay finds its own row there and changes nothing.
NOTE_FINDINGS = """
INSERT INTO findings (kind, family, entity_id, event_id, message)
SELECT *
FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::text[])
ON CONFLICT (family, entity_id, kind, event_id) DO UPDATE
SET message = greatest(findings.message, excluded.message)
WHERE findings.message < excluded.message
"""

WITHDRAW_FINDINGS = """
DELETE FROM findings
USING unnest($2::text[], $3::text[], $4::uuid[]) AS withdrawn (kind, entity_id, event_id)
WHERE findings.family = $1
    AND findings.entity_id = withdrawn.entity_id
    AND findings.kind = withdrawn.kind
    AND findings.event_id = withdrawn.event_id
"""

# A replay finds its own row there and changes nothing. An earlier reception makes a row due earlier.
REQUIRE_COMMUNICATIONS = """
INSERT INTO communications (event_id, kind, order_id, item_id, occurred_at)
SELECT *
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
ON CONFLICT (event_id, kind) DO UPDATE
SET occurred_at = excluded.occurred_at
WHERE communications.occurred_at > excluded.occurred_at
"""


async def note(connection: Connection, family: str, effects: Effects) -> None:
    """Note findings and communications."""
    await note_findings(connection, family, effects)
    if effects.communications:
        rows = communication_rows(effects.communications)
        await connection.execute(REQUIRE_COMMUNICATIONS, *map(list, zip(*rows, strict=True)))


async def note_findings(connection: Connection, family: str, effects: Effects) -> None:
    if effects.withdrawn:
        rows = [(finding.kind, finding.entity_id, finding.event_id) for finding in effects.withdrawn]
        await connection.execute(WITHDRAW_FINDINGS, family, *map(list, zip(*rows, strict=True)))
    if effects.findings:
        await _note_findings(connection, family, effects.findings)


async def note_reuse(connection: Connection, findings: Sequence[Finding]) -> None:
    """Note ids that were used twice. They belong to no family, since several may receive the same id."""
    if findings:
        await _note_findings(connection, "any", findings)


async def _note_findings(connection: Connection, family: str, findings: Iterable[Finding]) -> None:
    # An id that was used twice can give one key two findings: the greater message stands.
    messages: dict[tuple[str, str, str, UUID | None], str] = {}
    for finding in findings:
        key = (finding.kind, family, finding.entity_id, finding.event_id)
        messages[key] = max(finding.message, messages.get(key, ""))
    rows = sorted((*key, message) for key, message in messages.items())
    await connection.execute(NOTE_FINDINGS, *map(list, zip(*rows, strict=True)))


def communication_rows(communications: Iterable[Communication]) -> list[tuple[object, ...]]:
    """Sorted, so that two transactions that require the same ones wait for each other in one direction."""
    return sorted(
        (
            communication.event_id,
            communication.kind.value,
            communication.order_id,
            communication.item_id,
            communication.occurred_at,
        )
        for communication in communications
    )
