"""Reads a dead letter from its message. Pure."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import orjson

from schemas import identity
from schemas.envelope import Envelope, InvalidEnvelope, Provenance
from schemas.events import InvalidEvent, parse, read_json
from schemas.registry import SCHEMAS, Provider
from schemas.trace_context import recorded_ids
from worker.amqp.tap import Delivery
from worker.config.subscribers import ORIGIN_PREFIX
from worker.observability.inert_text import visible
from worker.pipeline.decode import event_id_of
from worker.pipeline.retry_schedule import REASON_LIMIT

QUARANTINE_ORIGIN = "quarantine"

# What an id or the name of a type looks like; anything else might be a person's.
_NAME = re.compile(r"[A-Za-z0-9][\w.:-]{0,79}", re.ASCII)
_FINGERPRINT = re.compile(r" #([0-9a-f]{8})$")
_EXHAUSTED = re.compile(r"exhausted: (\w+)")

_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it arrived. `message_key` is the same each time the same message is delivered."""

    message_key: UUID
    origin: str
    event_id: UUID
    provider: str | None
    type: str
    entity_id: str | None
    reason: str
    exception: str | None
    fingerprint: str
    attempts: int
    received_at: datetime | None
    first_failed_at: datetime | None
    last_failed_at: datetime | None
    headers: str
    body: bytes
    content_id: UUID | None = None
    provenance: str | None = None
    evidence: str | None = None


def read_letter(origin: str, delivery: Delivery) -> Letter:
    """Never raises for what a message holds.

    The body of a redelivered message is not parsed: parsing may have ended the process.
    """
    if is_of_webhook(origin):
        return _read_change(origin, delivery)
    envelope = _envelope(delivery.headers)
    provider = envelope.provider.value if envelope else None
    body_type, entity_id = (None, None) if delivery.redelivered else _read_body(provider, delivery.body)
    event_type = (envelope.event_type if envelope else "") or body_type or ""
    reason = _reason(delivery.headers)
    return Letter(
        message_key=message_key(origin, delivery),
        origin=origin,
        event_id=event_id_of(delivery),
        provider=provider,
        type=visible(event_type)[:200],
        entity_id=entity_id,
        reason=reason,
        exception=exhausted[1] if (exhausted := _EXHAUSTED.match(reason)) else None,
        fingerprint=fingerprint_of(reason, event_type),
        attempts=_attempts(delivery.headers),
        received_at=envelope.received_at if envelope else None,
        first_failed_at=envelope.first_failed_at if envelope else None,
        last_failed_at=envelope.last_failed_at if envelope else None,
        headers=_json(delivery.headers),
        body=delivery.body,
        content_id=envelope.content_id if envelope else None,
        provenance=provenance_in(origin, envelope) if envelope else None,
        evidence=orjson.dumps(evidence).decode() if envelope and (evidence := envelope.evidence) else None,
    )


def provenance_in(origin: str, envelope: Envelope) -> Provenance:
    """An older release's message in the quarantine came from a sender: only the ingest published there."""
    if envelope.recorded_provenance is None and origin == QUARANTINE_ORIGIN:
        return Provenance.WEBHOOK
    return envelope.provenance


def is_of_webhook(origin: str) -> bool:
    """Whether a letter is a change that a subscriber over HTTP did not accept."""
    return origin.startswith(ORIGIN_PREFIX)


def _read_change(origin: str, delivery: Delivery) -> Letter:
    """The same change that comes back has the same event id here."""
    headers, reason = delivery.headers, _reason(delivery.headers)
    return Letter(
        message_key=message_key(origin, delivery),
        origin=origin,
        event_id=identity.content_hash_id(f"{origin}\n{headers.get('x-change-id')}".encode(errors="replace")),
        provider=None,
        type=visible(delivery.type)[:200],
        entity_id=_name(headers.get("x-subject")),
        reason=reason,
        exception=None,
        fingerprint=fingerprint_of(reason, ""),
        attempts=_attempts(headers),
        received_at=None,
        first_failed_at=_instant(headers.get("x-first-failed-at")),
        last_failed_at=_instant(headers.get("x-last-failed-at")),
        headers=_json(headers),
        body=delivery.body,
        evidence=orjson.dumps(ids).decode() if (ids := recorded_ids(headers)) else None,
    )


def minimal_letter(origin: str, delivery: Delivery) -> Letter:
    """A letter with only the body, for a message that the table accepts in no other form."""
    reason = "the message could not be stored as it was: only its body is here"
    return Letter(
        message_key=message_key(origin, delivery),
        origin=origin,
        event_id=event_id_of(delivery),
        provider=None,
        type="",
        entity_id=None,
        reason=reason,
        exception=None,
        fingerprint=fingerprint_of(reason, ""),
        attempts=1,
        received_at=None,
        first_failed_at=None,
        last_failed_at=None,
        headers="{}",
        body=delivery.body,
    )


def message_key(origin: str, delivery: Delivery) -> UUID:
    """The id of a message, or one computed from its bytes if it has none.

    A body that says nothing, an empty one say, has its id from its bytes: sent again it is the same letter.
    """
    if origin == QUARANTINE_ORIGIN and delivery.headers.get("x-event-type") == "":
        provider, event_id = delivery.headers.get("x-provider"), delivery.headers.get("x-event-id")
        return identity.content_hash_id(f"{origin}\n{provider}\n{event_id}".encode(errors="replace"))
    identity_text = f"{origin}\n{delivery.message_id}\n{delivery.headers.get('x-event-id')}\n"
    return identity.content_hash_id(identity_text.encode(errors="replace") + delivery.body)


def fingerprint_of(reason: str, event_type: str) -> str:
    """The fingerprint of the failure, or else a hash of reason and type."""
    if match := _FINGERPRINT.search(reason):
        return match[1]
    text = f"{event_type}\n{reason}".encode(errors="replace")
    return hashlib.blake2b(text, digest_size=4).hexdigest()


def entity_in(provider: str | None, body: bytes) -> str | None:
    """The entity id in a body, also if the body breaks its schema."""
    return _read_body(provider, body)[1]


def _envelope(headers: Mapping[str, object]) -> Envelope | None:
    try:
        return Envelope.from_headers(headers)
    except InvalidEnvelope:
        return None


def _read_body(provider: str | None, body: bytes) -> tuple[str | None, str | None]:
    if provider is None:
        return None, None
    schema = SCHEMAS[Provider(provider)]
    try:
        document = schema.unwrap(read_json(body))
    except ValueError:
        return None, None
    if not isinstance(document, dict):
        return None, None
    event_type = _name(document.get(schema.type_member))
    try:
        return event_type, _name(parse(Provider(provider), body).entity_id)
    except InvalidEvent:
        return event_type, next(filter(None, map(_name, schema.possible_entity_ids(document))), None)


def _name(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST:
        return str(value)
    return value if isinstance(value, str) and _NAME.fullmatch(value) else None


def _reason(headers: Mapping[str, object]) -> str:
    """Our reason, or the broker's if the broker dead-lettered the message."""
    deaths = headers.get("x-death")
    if isinstance(deaths, list):
        for death in deaths:
            if isinstance(death, dict) and death.get("reason") == "delivery_limit":
                return "delivered too often: its consumer ended each time (the broker's delivery limit)"
    reason = headers.get("x-reason")
    if isinstance(reason, str) and reason:
        return visible(reason)[:REASON_LIMIT]
    key = headers.get("x-event-type")
    return "no family handles it" if key is not None else "not published by an ingest"


def _instant(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _attempts(headers: Mapping[str, object]) -> int:
    attempts = headers.get("x-attempt")
    return min(attempts, _LARGEST) if isinstance(attempts, int) and attempts > 0 else 1


def _json(headers: Mapping[str, object]) -> str:
    try:
        return orjson.dumps(dict(headers), default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError:
        return "{}"
