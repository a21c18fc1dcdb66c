"""The message that replays a dead letter or an unhandled event: a first attempt, in a trace of its own."""

from dataclasses import dataclass, replace
from uuid import UUID

from cryptography.fernet import MultiFernet

from schemas.changes import CONTENT_TYPE
from schemas.envelope import Envelope, InvalidEnvelope
from schemas.registry import Provider
from schemas.trace_context import ORIGIN_TRACEPARENT, origin_headers, read_origin
from worker.amqp.channel import Channel, Message
from worker.amqp.message_spans import sent, with_headers
from worker.amqp.queue_set import main_queue
from worker.amqp.topology import RETURN
from worker.dead_letters import store
from worker.dead_letters.message import QUARANTINE_ORIGIN, is_of_webhook
from worker.dead_letters.store import StoredLetter
from worker.intake.encryption import NoUsableKey
from worker.intake.intake import RESERVED_TYPE, accept_again
from worker.observability.tracing import Kind, Tracer

PUBLISH_SECONDS = 10.0

# Where a replay moves a dead letter of a type that no family handles. Releases before the table
# `unhandled_events` made such dead letters.
UNHANDLED_ORIGIN = "unhandled"


@dataclass(frozen=True, slots=True)
class Ready:
    """The message to publish for a letter, its origin, and its event.

    A change that goes to a webhook has no content id.
    """

    message: Message
    origin: str
    event_id: UUID
    content_id: UUID | None


@dataclass(frozen=True, slots=True)
class Unready:
    """The letter cannot be replayed as it is."""

    reason: str


def prepare(letter: StoredLetter, encryptor: MultiFernet | None) -> Ready | Unready:
    """The message for a first attempt. A quarantined letter is routed as the ingest routes it today."""
    if is_of_webhook(letter.origin):
        return _posted_again(letter)
    if letter.provider is None:
        return Unready("its headers do not say which marketplace it is from")
    try:
        envelope = Envelope.from_headers(letter.headers)
        is_changed = letter.original_body is not None
        received_at = letter.received_at or letter.arrived_at
        again = (
            accept_again(
                Provider(letter.provider), letter.body, received_at, encryptor, store.provenance_of(letter)
            )
            if is_changed or letter.origin == QUARANTINE_ORIGIN
            else None
        )
    except (InvalidEnvelope, NoUsableKey) as error:
        return Unready(str(error))
    if again is not None:
        headers = {
            **again.message.headers,
            **envelope.evidence_headers,
            **origin_headers(letter.headers),
        }
        again = replace(again, message=replace(again.message, headers=headers))
    if again is not None and again.unhandled is not None and letter.origin == QUARANTINE_ORIGIN:
        return Ready(again.message, UNHANDLED_ORIGIN, again.event_id, again.content_id)
    if again is not None and again.family is None:
        is_reserved = again.reason == RESERVED_TYPE
        return Unready(RESERVED_TYPE if is_reserved else f"{again.reason}: no family handles it")
    if letter.origin == QUARANTINE_ORIGIN:
        assert again is not None, "it is quarantined"
        assert again.family is not None, "see above"
        return Ready(again.message, again.family, again.event_id, again.content_id)
    if again is not None and again.family != letter.origin:
        return Unready(f"as it was edited it is of the family {again.family}")
    content_id = again.content_id if again else envelope.content_id
    event_type = Envelope.from_headers(again.message.headers).event_type if again else envelope.event_type
    fresh = envelope.model_copy(
        update={
            "attempt": 1,
            "event_type": event_type,
            "content_id": content_id,
            "recorded_provenance": store.provenance_of(letter),
            "first_failed_at": None,
            "last_failed_at": None,
            "reason": None,
            "traceparent": None,
            "tracestate": None,
            "origin_traceparent": origin_headers(letter.headers).get(ORIGIN_TRACEPARENT),
        }
    )
    queue = main_queue(letter.origin)
    message = Message(RETURN, queue, f"{letter.provider}.{event_type}", fresh.to_headers(), letter.body)
    return Ready(message, letter.origin, envelope.event_id, content_id)


def _posted_again(letter: StoredLetter) -> Ready:
    """A change with the same `webhook-id`, by which a subscriber recognizes it."""
    headers = {name: str(letter.headers.get(name, "")) for name in ("x-change-id", "x-subject")}
    headers |= origin_headers(letter.headers)
    queue = main_queue(letter.origin)
    message = Message(RETURN, queue, letter.type, headers, letter.body, CONTENT_TYPE)
    return Ready(message, letter.origin, letter.event_id, None)


async def publish_traced(tracer: Tracer | None, channel: Channel, ready: Ready) -> None:
    """Publish a message that begins a trace, linked to that of its first publish.

    Raises as `Channel.publish` does.
    """
    message = ready.message
    if tracer is None:
        await channel.publish(message, PUBLISH_SECONDS)
        return
    origin = read_origin(message.headers)
    name, attributes = sent(message, str(ready.event_id))
    attributes["stockhook.replay"] = True
    links = [] if origin is None else [origin]
    with tracer.span(name, Kind.PRODUCER, attributes, links=links) as span:
        await channel.publish(with_headers(message, span.context.headers), PUBLISH_SECONDS)
