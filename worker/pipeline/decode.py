"""Decodes a delivery to an event of a family, or to the reason why it is invalid."""

from dataclasses import dataclass
from uuid import UUID

import structlog

from consumers.registry import AnyFamily
from schemas import identity
from schemas.envelope import Envelope, InvalidEnvelope, Provenance
from schemas.events import OBSERVATIONS, InvalidEvent, parse
from worker.amqp.tap import Delivery
from worker.observability.errors import safe_summary
from worker.postgres.event_log import Candidate

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A delivery that holds a valid event."""

    delivery: Delivery
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class InvalidDelivery:
    """A delivery that breaks its schema. `reason` names fields and rules, not values."""

    delivery: Delivery
    reason: str


@dataclass(frozen=True, slots=True)
class PossiblyPoisonous:
    """A delivery that is not decoded yet, because decoding it may be what ended its consumer."""

    delivery: Delivery


Item = Decoded | InvalidDelivery
Received = Item | PossiblyPoisonous


def decode(family: AnyFamily, delivery: Delivery) -> Item:
    """Read headers and body; an event of another family is invalid."""
    try:
        envelope = Envelope.from_headers(delivery.headers)
        payload = parse(envelope.provider, delivery.body)
    except (InvalidEnvelope, InvalidEvent) as error:
        return InvalidDelivery(delivery, str(error))
    if type(payload) not in family.payloads:
        return InvalidDelivery(delivery, f"event: not one of the family {family.name}")
    if isinstance(payload, OBSERVATIONS) and envelope.provenance is not Provenance.OBSERVATION:
        return InvalidDelivery(delivery, "event: an observation from a sender")
    return Decoded(delivery, Candidate(envelope, payload, delivery.body))


def decode_any(family: AnyFamily, delivery: Delivery) -> Item:
    """Decode without raising: a message that causes an unforeseen error is invalid."""
    try:
        return decode(family, delivery)
    except Exception as error:
        log.exception("delivery.unreadable", family=family.name)
        return InvalidDelivery(delivery, f"unreadable: {safe_summary(error)}")


def envelope_of(item: Item) -> Envelope | None:
    """The headers of a delivery; None if they are not ours."""
    if isinstance(item, Decoded):
        return item.candidate.envelope
    try:
        return Envelope.from_headers(item.delivery.headers)
    except InvalidEnvelope:
        return None


def attempt_of(item: Item) -> int:
    """The number of the attempt that this delivery is, from 1."""
    return item.candidate.envelope.attempt if isinstance(item, Decoded) else attempt_in(item.delivery)


def attempt_in(delivery: Delivery) -> int:
    """The attempt as the header states it; 1 without a valid one."""
    attempt = delivery.headers.get("x-attempt")
    return attempt if isinstance(attempt, int) and attempt > 0 else 1


def event_id_of(delivery: Delivery) -> UUID:
    """The event id in the headers; without one, an id computed from the body."""
    try:
        return UUID(str(delivery.headers.get("x-event-id")))
    except ValueError:
        return identity.content_hash_id(delivery.body)


def identity_of(delivery: Delivery) -> UUID:
    """An id of the event that is computed without parsing the body.

    Several events may have the same event id, so the body counts as well.
    """
    return identity.content_hash_id(event_id_of(delivery).bytes + delivery.body)
