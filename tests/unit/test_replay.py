"""A replayed dead letter is the same event, with its first reception."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from consumers.registry import FAMILIES
from schemas.envelope import Envelope, Provenance
from schemas.registry import Provider
from schemas.trace_context import TRACE_HEADERS
from tests.support.events import body, part_changed
from worker.amqp.channel import Message
from worker.amqp.tap import Delivery
from worker.dead_letters.message import QUARANTINE_ORIGIN, read_letter
from worker.dead_letters.replay_message import Ready, Unready, prepare
from worker.dead_letters.store import StoredLetter, provenance_of
from worker.intake.intake import accept, accept_again
from worker.pipeline.decode import Decoded, InvalidDelivery, decode

RECEIVED_AT = datetime(2026, 3, 1, tzinfo=UTC)
BODY = body(part_changed("13", at="2026-03-01T00:00:00+00:00", number=1))
OBSERVED = BODY.replace(b"part.status.changed", b"stockhook.observed.part")


def stored_as(
    message: Message,
    *,
    origin: str = "inventory",
    is_edited: bool = False,
    provenance: str | None = None,
    replay_of: int | None = None,
) -> StoredLetter:
    letter = read_letter(origin, Delivery(1, message.type, message.headers, message.body, redelivered=False))
    return StoredLetter(
        dead_letter_id=1,
        origin=origin,
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
        body=message.body,
        original_body=b"{" if is_edited else None,
        provenance=provenance,
        evidence=None,
        replayed_as=None,
        replay_of=replay_of,
    )


@pytest.mark.parametrize("origin", ["inventory", QUARANTINE_ORIGIN, "webhook.shop"])
@pytest.mark.parametrize("is_edited", [False, True])
@pytest.mark.parametrize("earlier", [{}, {"x-origin-traceparent": f"00-{'b' * 32}-{'b' * 16}-01"}])
def test_a_replay_leaves_its_trace_and_names_the_first_one(
    origin: str, is_edited: bool, earlier: dict[str, str]
) -> None:
    accepted = accept(Provider.OVOKO, BODY, RECEIVED_AT).message
    traced = {"traceparent": f"00-{'a' * 32}-{'a' * 16}-01", "tracestate": "a=1", **earlier}
    message = replace(accepted, headers={**accepted.headers, **traced})
    ready = prepare(stored_as(message, origin=origin, is_edited=is_edited), None)

    assert isinstance(ready, Ready)
    first = earlier.get("x-origin-traceparent", traced["traceparent"])
    names = TRACE_HEADERS & ready.message.headers.keys()
    assert {name: ready.message.headers[name] for name in names} == {"x-origin-traceparent": first}


def without_provenance(message: Message) -> Message:
    """The message of an older release."""
    headers = {name: value for name, value in message.headers.items() if name != "x-provenance"}
    return replace(message, headers=headers)


@pytest.mark.parametrize("origin", ["inventory", QUARANTINE_ORIGIN])
@pytest.mark.parametrize("is_edited", [False, True])
def test_a_replay_keeps_how_the_gateway_names_the_request(origin: str, is_edited: bool) -> None:
    accepted = accept(Provider.OVOKO, BODY, RECEIVED_AT).message
    named = {"x-gateway-event": "evt_1", "x-request-id": "0f1e"}
    message = replace(accepted, headers={**accepted.headers, **named})
    ready = prepare(stored_as(message, origin=origin, is_edited=is_edited), None)

    assert isinstance(ready, Ready)
    assert Envelope.from_headers(ready.message.headers).evidence == {
        "gateway_event": "evt_1",
        "request_id": "0f1e",
    }


@pytest.mark.parametrize("origin", ["inventory", QUARANTINE_ORIGIN])
@pytest.mark.parametrize("is_edited", [False, True])
def test_a_replay_keeps_the_reception(origin: str, is_edited: bool) -> None:
    letter = stored_as(accept(Provider.OVOKO, BODY, RECEIVED_AT).message, origin=origin, is_edited=is_edited)
    ready = prepare(letter, None)

    assert isinstance(ready, Ready)
    assert Envelope.from_headers(ready.message.headers).received_at == RECEIVED_AT


@pytest.mark.parametrize("is_recorded", [False, True], ids=["an older publisher", "a newer publisher"])
@pytest.mark.parametrize("is_edited", [False, True], ids=["unchanged", "edited"])
def test_an_observation_that_an_archiver_of_an_older_release_stored_is_applied_by_a_replay(
    is_recorded: bool, is_edited: bool
) -> None:
    """Such an archiver stores no provenance, even after the migration that filled older rows."""
    message = accept_again(Provider.OVOKO, OBSERVED, RECEIVED_AT, None, Provenance.OBSERVATION).message
    message = message if is_recorded else without_provenance(message)
    ready = prepare(stored_as(message, is_edited=is_edited), None)

    assert isinstance(ready, Ready)
    assert isinstance(decoded(ready), Decoded)


@pytest.mark.parametrize(
    ("origin", "provenance", "replay_of"),
    [("inventory", "webhook", None), (QUARANTINE_ORIGIN, None, None), ("inventory", None, 7)],
    ids=["recorded", "quarantined", "perhaps replayed from the quarantine"],
)
def test_a_senders_message_is_not_applied_as_an_observation(
    origin: str, provenance: str | None, replay_of: int | None
) -> None:
    message = accept_again(Provider.OVOKO, OBSERVED, RECEIVED_AT, None, Provenance.OBSERVATION).message
    message = without_provenance(message)
    ready = prepare(stored_as(message, origin=origin, provenance=provenance, replay_of=replay_of), None)

    assert isinstance(ready, Unready) or isinstance(decoded(ready), InvalidDelivery)


def test_a_letter_whose_headers_cannot_be_read_counts_as_sent_by_a_marketplace() -> None:
    message = accept_again(Provider.OVOKO, OBSERVED, RECEIVED_AT, None, Provenance.OBSERVATION).message

    assert provenance_of(stored_as(replace(message, headers={"x-provenance": "observation"}))) == "webhook"


def decoded(ready: Ready) -> Decoded | InvalidDelivery:
    message = ready.message
    delivery = Delivery(1, message.type, message.headers, message.body, redelivered=False)
    return decode(FAMILIES["inventory"], delivery)
