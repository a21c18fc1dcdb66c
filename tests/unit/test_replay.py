"""A replayed dead letter is the same event, received when it was first received."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from schemas.envelope import Envelope
from worker.dead.letter import QUARANTINE_LANE, read_letter
from worker.dead.replay import Ready, prepare
from worker.dead.store import Kept
from worker.ingest.intake import take_ovoko
from worker.wire import Delivery

RECEIVED_AT = datetime(2026, 3, 1, tzinfo=UTC)
BODY = (
    b'{"event_id": "101aa6a1-ed22-42f0-84ca-1f8a028a2d28", "event_type": "part.status.changed", '
    b'"timestamp": "2026-03-01T00:00:00+00:00", "event_data": {"part_id": "13", "status": "sold"}}'
)


@pytest.mark.parametrize("lane", ["inventory", QUARANTINE_LANE])
@pytest.mark.parametrize("is_edited", [False, True])
def test_a_replay_keeps_the_reception(lane: str, is_edited: bool) -> None:
    message = take_ovoko(BODY, RECEIVED_AT).message
    letter = read_letter(lane, Delivery(1, message.type, message.headers, BODY, redelivered=False))
    kept = Kept(
        dead_letter_id=1,
        lane=lane,
        state="waiting",
        event_id=uuid4(),
        provider=letter.provider,
        type=letter.type,
        entity_id=letter.entity_id,
        reason=letter.reason,
        exception=None,
        fingerprint="",
        attempts=4,
        received_at=letter.received_at,
        first_failed_at=None,
        last_failed_at=None,
        arrived_at=datetime.now(UTC),
        headers=message.headers,
        body=BODY,
        original_body=b"{" if is_edited else None,
        provenance=None,
        replayed_as=None,
        replay_of=None,
    )
    ready = prepare(kept, None)

    assert isinstance(ready, Ready)
    assert Envelope.from_headers(ready.message.headers).received_at == RECEIVED_AT
