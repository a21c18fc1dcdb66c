"""From a webhook's body to the message that is published: authenticate, cut, seal, name, route.

Pure but for the randomness of sealing. Nothing here validates an event against its model: that is the
consumer's work, where a broken event can be set aside without an answer that a sender counts.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from cryptography.fernet import MultiFernet
from pydantic import SecretStr

from consumers.registry import FAMILY_OF
from schemas import identity
from schemas.envelope import UNHANDLED, Envelope, Provenance
from schemas.events import (
    RESERVED_PREFIX,
    Provider,
    read_json,
    routing_key,
    unwrapped,
    webhook_models,
)
from worker.amqp.channel import Message
from worker.amqp.topology import EVENTS, quarantine_key
from worker.intake.authentication import position
from worker.intake.encryption import (
    CannotUnseal,
    opened,
    seal_payment_details,
    unsealed,
)
from worker.intake.json_bytes import may_be_values, top_level_string, without_member
from worker.intake.redaction import without_secrets
from worker.observability.inert_text import visible

# Characters that are kept of an unknown type's name, since header tables are limited.
LONGEST_TYPE = 200

RESERVED_TYPE = "reserved event type: no marketplace can send what only Stockhook publishes"

# The types that marketplaces may send, by routing key. Observations are ours alone to publish.
_WEBHOOKS = frozenset(
    routing_key(provider, name) for provider in Provider for name in webhook_models(provider)
)
_KNOWN = {Provenance.WEBHOOK: _WEBHOOKS, Provenance.OBSERVATION: frozenset(FAMILY_OF)}


@dataclass(frozen=True, slots=True)
class Accepted:
    """To be stored: for a family, or for the quarantine, and then `reason` says why.

    `unhandled` is the routing key of a well-formed event of a type that no family takes. `secret` is the
    position of the one that it came with, if that was in the body.
    """

    event_id: UUID
    content_id: UUID
    message: Message
    family: str | None
    reason: str | None = None
    secret: int | None = None
    unhandled: str | None = None


@dataclass(frozen=True, slots=True)
class Unauthorized:
    """No active secret came with it."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """No JSON, and no token to be seen in it."""


Intake = Accepted | Unauthorized | Unreadable


def take_ovoko(body: bytes, received_at: datetime) -> Accepted:
    """An authenticated body of Ovoko's, flat or wrapped."""
    return _take_ovoko(body, received_at, Provenance.WEBHOOK)


def take_observed(body: bytes, received_at: datetime) -> Accepted:
    """What was seen in Ovoko's lists. It has no id: the same sight, seen at the same time, gets the same."""
    return _take_ovoko(body, received_at, Provenance.OBSERVATION)


def _take_ovoko(body: bytes, received_at: datetime, provenance: Provenance) -> Accepted:
    try:
        document = unwrapped(read_json(body))
    except ValueError:
        return _quarantined(Provider.OVOKO, body, "not JSON", received_at)
    match document:
        case {"event_type": str() as event_type, **content} if (
            routing_key(Provider.OVOKO, event_type) in _KNOWN[provenance]
        ):
            given = content.pop("event_id", None)
            content_id = identity.content_id(event_type, content)
            event_id = identity.event_id(Provider.OVOKO, given, content_id)
            return _routed(Provider.OVOKO, event_type, event_id, content_id, body, received_at, provenance)
        case {"event_type": str() as event_type} if event_type.startswith(RESERVED_PREFIX):
            return _quarantined(Provider.OVOKO, body, RESERVED_TYPE, received_at)
        case {"event_type": str() as event_type, **content} if event_type.strip():
            given = content.pop("event_id", None)
            content_id = identity.content_id(event_type, content)
            event_id = identity.event_id(Provider.OVOKO, given, content_id)
            return _unhandled(Provider.OVOKO, event_type, event_id, content_id, body, received_at)
        case _:
            return _quarantined(Provider.OVOKO, body, "no event type", received_at)


def take_buyback(
    body: bytes, received_at: datetime, tokens: Sequence[SecretStr], sealer: MultiFernet
) -> Intake:
    """A body of the trade-in platform's, which authenticates itself by its token.

    Where the body is broken but its token can be read, it is authentic: it is kept, sealed whole,
    because nobody can tell where in it bank details are.
    """
    try:
        document = read_json(body)
    except ValueError:
        return _take_broken_buyback(body, received_at, tokens, sealer)
    if not isinstance(document, dict):
        return Unreadable()
    secret = _position(document.get("token"), tokens)
    if secret is None:
        return Unauthorized()
    plain = _without_tokens(body, tokens)
    taken = _route_buyback(plain, seal_payment_details(plain, sealer), received_at, sealer)
    return replace(taken, secret=secret)


def take_again(
    provider: Provider,
    body: bytes,
    received_at: datetime,
    sealer: MultiFernet | None,
    provenance: Provenance = Provenance.WEBHOOK,
) -> Accepted:
    """A body that was taken in before, as it is kept: without its token, bank details sealed.

    The ids are those that the same event gets when the marketplace sends it.

    Raises:
        CannotUnseal
    """
    if provider is Provider.OVOKO:
        return _take_ovoko(body, received_at, provenance)
    try:
        plain = unsealed(body, sealer)
        read_json(plain)
    except ValueError:
        return _quarantined(Provider.BUYBACK, body, "not JSON", received_at)
    return _route_buyback(plain, body, received_at, sealer)


def take_unhandled(
    provider: Provider, body: bytes, received_at: datetime, sealer: MultiFernet | None
) -> Accepted:
    """Route a stored unhandled event as if the marketplace sent it now.

    Raises:
        CannotUnseal
    """
    if provider is Provider.OVOKO:
        return take_ovoko(body, received_at)
    plain = opened(body, sealer)
    assert sealer is not None, "it has opened the body"
    try:
        read_json(plain)
    except ValueError:
        return _quarantined(Provider.BUYBACK, body, "not JSON (sealed whole)", received_at, plain)
    kept = seal_payment_details(plain, sealer)
    return _route_buyback(plain, kept, received_at, sealer)


def _route_buyback(plain: bytes, kept: bytes, received_at: datetime, sealer: MultiFernet | None) -> Accepted:
    """`plain` is `kept` before its bank details were encrypted; ids are made of it, as no two ciphertexts of
    the same details are the same.

    An event of an unknown type may contain personal data anywhere, so it is encrypted whole.

    Raises:
        CannotUnseal: There is no key to encrypt with.
    """
    match read_json(plain):
        case {"type": str() as event_type, "result": dict() as result} if _is_known(event_type):
            event_id = identity.content_id(event_type, result)
            return _routed(Provider.BUYBACK, event_type, event_id, event_id, kept, received_at)
        case {"type": str() as event_type} if _is_known(event_type):
            return _quarantined(Provider.BUYBACK, kept, "no result", received_at, plain)
        case {"type": str() as event_type, **content} if event_type.strip():
            content_id = identity.content_id(event_type, content)
            # The id that the event gets once a family takes its type. Until then, the whole content
            # decides which events are the same.
            told = content.get("result")
            event_id = identity.content_id(event_type, told) if isinstance(told, dict) else content_id
            if sealer is None:
                raise CannotUnseal(
                    "set STOCKHOOK_SEALING_KEYS: Buyback events of this type are encrypted whole"
                )
            encrypted = sealer.encrypt(plain)
            return _unhandled(Provider.BUYBACK, event_type, event_id, content_id, encrypted, received_at)
        case _:
            return _quarantined(Provider.BUYBACK, kept, "no event type", received_at, plain)


def _take_broken_buyback(
    body: bytes, received_at: datetime, tokens: Sequence[SecretStr], sealer: MultiFernet
) -> Intake:
    possible = may_be_values(body, "token")
    if not possible:
        return Unreadable()
    # Anybody can send such a body: it is scanned only if an active token is in it.
    if all(_position(_string(each), tokens) is None for each in possible):
        return Unauthorized()
    token = top_level_string(body, "token")
    if token is None:
        return Unreadable()
    secret = _position(token, tokens)
    if secret is None:
        return Unauthorized()
    plain = _without_tokens(body, tokens)
    reason = "not JSON (sealed whole)"
    taken = _quarantined(Provider.BUYBACK, sealer.encrypt(plain), reason, received_at, plain)
    return replace(taken, secret=secret)


def _string(quoted: bytes) -> str | None:
    try:
        return str(json.loads(quoted.decode()))
    except ValueError:
        return None


def _position(token: object, tokens: Sequence[SecretStr]) -> int | None:
    return position(token, tokens) if isinstance(token, str) else None


def _without_tokens(body: bytes, tokens: Sequence[SecretStr]) -> bytes:
    """The body without the member, and without copies of a token that stand elsewhere."""
    return without_secrets(without_member(body, "token"), [token.get_secret_value() for token in tokens])


def _is_known(event_type: str) -> bool:
    return routing_key(Provider.BUYBACK, event_type) in _WEBHOOKS


def _routed(
    provider: Provider,
    event_type: str,
    event_id: UUID,
    content_id: UUID,
    body: bytes,
    received_at: datetime,
    provenance: Provenance = Provenance.WEBHOOK,
) -> Accepted:
    envelope = Envelope(
        provider=provider,
        event_type=event_type,
        event_id=event_id,
        content_id=content_id,
        received_at=received_at,
        recorded_provenance=provenance,
    )
    key = routing_key(provider, event_type)
    message = Message(EVENTS, key, key, envelope.to_headers(), body)
    return Accepted(event_id, content_id, message, FAMILY_OF[key])


def shown_type(event_type: str) -> str:
    """An unknown event type in a form that can be stored, sent in a header and shown."""
    return visible(event_type[:LONGEST_TYPE])[:LONGEST_TYPE]


def _unhandled(
    provider: Provider,
    event_type: str,
    event_id: UUID,
    content_id: UUID,
    body: bytes,
    received_at: datetime,
) -> Accepted:
    """Goes through the quarantine, whose archiver recognizes it by its reason."""
    shown = shown_type(event_type)
    envelope = Envelope(
        provider=provider,
        event_type=shown,
        event_id=event_id,
        content_id=content_id,
        received_at=received_at,
        reason=UNHANDLED,
        recorded_provenance=Provenance.WEBHOOK,
    )
    key = quarantine_key(provider)
    message = Message(EVENTS, key, key, envelope.to_headers(), body)
    return Accepted(event_id, content_id, message, None, UNHANDLED, unhandled=routing_key(provider, shown))


def _quarantined(
    provider: Provider, body: bytes, reason: str, received_at: datetime, plain: bytes | None = None
) -> Accepted:
    """`plain` is the body before anything in it was encrypted, where something may be."""
    content_id = identity.content_hash_id(body if plain is None else plain)
    envelope = Envelope(
        provider=provider,
        event_type="",
        event_id=content_id,
        content_id=content_id,
        received_at=received_at,
        reason=reason,
        recorded_provenance=Provenance.WEBHOOK,
    )
    key = quarantine_key(provider)
    message = Message(EVENTS, key, key, envelope.to_headers(), body)
    return Accepted(content_id, content_id, message, None, reason)
