"""From a webhook's body to the message that is published: authenticate, cut, encrypt, name, route.

Pure but for the randomness of encryption. Nothing here validates an event against its model: that is the
consumer's work, where a broken event can be set aside without an answer that a sender counts.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, assert_never
from uuid import UUID

from cryptography.fernet import MultiFernet
from pydantic import SecretStr

from consumers.registry import FAMILY_OF
from schemas import identity
from schemas.envelope import UNHANDLED, Provenance, headers_of_new
from schemas.event_schema import EventIds, NotIdentified
from schemas.events import RESERVED_PREFIX, read_json, routing_key, webhook_models
from schemas.registry import Provider
from worker.amqp.channel import Message
from worker.amqp.topology import EVENTS, quarantine_key
from worker.intake.authentication import position
from worker.intake.encryption import NoUsableKey, decrypt_members, decrypted, encrypt_members
from worker.intake.json_bytes import may_be_values, top_level_string, without_member
from worker.intake.redaction import without_secrets, without_values
from worker.marketplaces.contract import Marketplace, SecretHeader, SecretMember
from worker.marketplaces.registry import MARKETPLACES
from worker.observability.inert_text import visible

# Characters that are kept of an unknown type's name, since header tables are limited.
LONGEST_TYPE = 200

RESERVED_TYPE = "reserved event type: no marketplace can send what only Stockhook publishes"
NOT_JSON = "not JSON"
ENCRYPTED_WHOLE = "not JSON (encrypted as a whole)"
NO_TYPE = "no event type"

# The types that marketplaces may send, by routing key. Observations are ours alone to publish.
_WEBHOOKS = frozenset(
    routing_key(provider, name) for provider in Provider for name in webhook_models(provider)
)
_ROUTED_TYPES = {Provenance.WEBHOOK: _WEBHOOKS, Provenance.OBSERVATION: frozenset(FAMILY_OF)}


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message for a family, or for the quarantine for this `reason`.

    `unhandled` is the routing key of a well-formed event of a type that no family handles. `secret` is the
    position of the secret that the request had, if that was in the body.
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
    """The request has no active secret."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Neither JSON nor a readable secret."""


Intake = Accepted | Unauthorized | Unreadable


def accept(
    provider: Provider,
    body: bytes,
    received_at: datetime,
    secrets: Sequence[SecretStr] = (),
    encryptor: MultiFernet | None = None,
    *,
    is_authentic: bool = False,
) -> Intake:
    """A webhook's body. One of the `secrets` must be in it, unless the marketplace has it in a header, or
    `is_authentic` says that a gateway's signature authenticates the body.

    A marketplace with private members needs an encryptor.
    """
    marketplace = MARKETPLACES[provider]
    match marketplace.authentication:
        case SecretHeader():
            return _accept_authentic(marketplace, body, received_at, encryptor, Provenance.WEBHOOK)
        case SecretMember(name=member) if is_authentic:
            plain = _without_any_secret(body, member, secrets)
            return _accept_authentic(marketplace, plain, received_at, encryptor, Provenance.WEBHOOK)
        case SecretMember(name=member):
            return _accept_with_secret(marketplace, member, body, received_at, secrets, encryptor)
        case unreachable:
            assert_never(unreachable)


def accept_observed(provider: Provider, body: bytes, received_at: datetime) -> Accepted:
    """What was seen in a marketplace's lists. It has no id: the same sight, seen at the same time, gets the
    same."""
    return _accept_authentic(MARKETPLACES[provider], body, received_at, None, Provenance.OBSERVATION)


def accept_again(
    provider: Provider,
    body: bytes,
    received_at: datetime,
    encryptor: MultiFernet | None,
    provenance: Provenance = Provenance.WEBHOOK,
) -> Accepted:
    """A body that was accepted before, as it is stored: without its secret, private members encrypted.

    The ids are those that the same event gets when the marketplace sends it.

    Raises:
        NoUsableKey
    """
    marketplace = MARKETPLACES[provider]
    try:
        plain = body
        if marketplace.private is not None:
            plain = decrypt_members(body, marketplace.private, encryptor)
        document = read_json(plain)
    except ValueError:
        return _quarantined(provider, body, NOT_JSON, received_at, body)
    return _route(marketplace, document, plain, body, received_at, encryptor, provenance)


def accept_unhandled(
    provider: Provider, body: bytes, received_at: datetime, encryptor: MultiFernet | None
) -> Accepted:
    """Route a stored unhandled event as if the marketplace sent it now.

    Raises:
        NoUsableKey
    """
    marketplace = MARKETPLACES[provider]
    plain = unhandled_body(provider, body, encryptor)
    try:
        document = read_json(plain)
    except ValueError:
        reason = NOT_JSON if marketplace.private is None else ENCRYPTED_WHOLE
        return _quarantined(provider, body, reason, received_at, plain)
    stored = _with_members_encrypted(marketplace, plain, encryptor)
    return _route(marketplace, document, plain, stored, received_at, encryptor, Provenance.WEBHOOK)


def unhandled_body(provider: Provider, body: bytes, encryptor: MultiFernet | None) -> bytes:
    """A stored unhandled event as it was received, but for its secret.

    Raises:
        NoUsableKey
    """
    return body if MARKETPLACES[provider].private is None else decrypted(body, encryptor)


def body_to_store(provider: Provider, body: bytes, encryptor: MultiFernet | None) -> bytes:
    """A body that a person changed, as it is stored: without its secret, private members encrypted.

    Raises:
        NoUsableKey
        ValueError: It is no JSON.
    """
    marketplace = MARKETPLACES[provider]
    if isinstance(marketplace.authentication, SecretMember):
        body = without_member(body, marketplace.authentication.name)
    if marketplace.private is None:
        return body
    plain = decrypt_members(body, marketplace.private, encryptor)
    return _with_members_encrypted(marketplace, plain, encryptor)


def _accept_authentic(
    marketplace: Marketplace,
    body: bytes,
    received_at: datetime,
    encryptor: MultiFernet | None,
    provenance: Provenance,
) -> Accepted:
    try:
        document = read_json(body)
    except ValueError:
        return _broken(marketplace, body, received_at, encryptor)
    stored = _with_members_encrypted(marketplace, body, encryptor)
    return _route(marketplace, document, body, stored, received_at, encryptor, provenance)


def _accept_with_secret(
    marketplace: Marketplace,
    member: str,
    body: bytes,
    received_at: datetime,
    secrets: Sequence[SecretStr],
    encryptor: MultiFernet | None,
) -> Intake:
    """A body that authenticates itself by the secret in it.

    Where the body is broken but its secret can be read, it is authentic: it is kept.
    """
    try:
        document = read_json(body)
    except ValueError:
        return _accept_broken(marketplace, member, body, received_at, secrets, encryptor)
    if not isinstance(document, dict):
        return Unreadable()
    secret = _position(document.get(member), secrets)
    if secret is None:
        return Unauthorized()
    without = without_member(body, member)
    plain = without_secrets(without, _values(secrets))
    if plain == without:
        del document[member]
    else:
        document = read_json(plain)
    stored = _with_members_encrypted(marketplace, plain, encryptor)
    routed = _route(marketplace, document, plain, stored, received_at, encryptor, Provenance.WEBHOOK)
    return replace(routed, secret=secret)


def _accept_broken(
    marketplace: Marketplace,
    member: str,
    body: bytes,
    received_at: datetime,
    secrets: Sequence[SecretStr],
    encryptor: MultiFernet | None,
) -> Intake:
    possible = may_be_values(body, member)
    if not possible:
        return Unreadable()
    # Anybody can send such a body: it is scanned only if an active secret is in it.
    if all(_position(_string(each), secrets) is None for each in possible):
        return Unauthorized()
    presented = top_level_string(body, member)
    if presented is None:
        return Unreadable()
    secret = _position(presented, secrets)
    if secret is None:
        return Unauthorized()
    plain = _without_secrets(body, member, secrets)
    return replace(_broken(marketplace, plain, received_at, encryptor), secret=secret)


def _broken(
    marketplace: Marketplace, plain: bytes, received_at: datetime, encryptor: MultiFernet | None
) -> Accepted:
    """An authentic body that is not JSON. Where it contains private data is not known."""
    if marketplace.private is None:
        return _quarantined(marketplace.name, plain, NOT_JSON, received_at, plain)
    stored = _required(encryptor).encrypt(plain)
    return _quarantined(marketplace.name, stored, ENCRYPTED_WHOLE, received_at, plain)


def _route(
    marketplace: Marketplace,
    document: Any,
    plain: bytes,
    stored: bytes,
    received_at: datetime,
    encryptor: MultiFernet | None,
    provenance: Provenance,
) -> Accepted:
    """`document` is what `plain` says, and `plain` is `stored` before its private members were encrypted: ids
    are made of it, as no two ciphertexts of the same value are the same.

    An event of an unknown type may contain private data anywhere: where there may be any, it is encrypted
    whole.

    Raises:
        NoUsableKey: There is no key to encrypt with.
    """
    provider, schema = marketplace.name, marketplace.schema
    event = schema.unwrap(document)
    event_type = event.get(schema.type_member) if isinstance(event, dict) else None
    if not isinstance(event_type, str) or not event_type.strip():
        return _quarantined(provider, stored, NO_TYPE, received_at, plain)
    content = {name: value for name, value in event.items() if name != schema.type_member}
    if routing_key(provider, event_type) in _ROUTED_TYPES[provenance]:
        try:
            ids = schema.identify(event_type, content)
        except NotIdentified as error:
            return _quarantined(provider, stored, str(error), received_at, plain)
        return _routed(provider, event_type, ids, stored, received_at, provenance)
    if schema.observations and event_type.startswith(RESERVED_PREFIX):
        return _quarantined(provider, stored, RESERVED_TYPE, received_at, plain)
    ids = (schema.identify_unhandled or schema.identify)(event_type, content)
    if marketplace.private is not None:
        stored = _required(encryptor).encrypt(plain)
    return _unhandled(provider, event_type, ids, stored, received_at)


def _with_members_encrypted(marketplace: Marketplace, plain: bytes, encryptor: MultiFernet | None) -> bytes:
    """Raises: NoUsableKey."""
    if marketplace.private is None:
        return plain
    return encrypt_members(plain, marketplace.private, _required(encryptor))


def _required(encryptor: MultiFernet | None) -> MultiFernet:
    """Raises: NoUsableKey."""
    if encryptor is None:
        raise NoUsableKey("private data is encrypted: set STOCKHOOK_SEALING_KEYS")
    return encryptor


def _string(quoted: bytes) -> str | None:
    try:
        return str(json.loads(quoted.decode()))
    except ValueError:
        return None


def _position(presented: object, secrets: Sequence[SecretStr]) -> int | None:
    return position(presented, secrets) if isinstance(presented, str) else None


def _without_secrets(body: bytes, member: str, secrets: Sequence[SecretStr]) -> bytes:
    """The body without the member, and without copies of a secret that stand elsewhere."""
    return without_secrets(without_member(body, member), _values(secrets))


def _values(secrets: Sequence[SecretStr]) -> list[str]:
    return [secret.get_secret_value() for secret in secrets]


def _without_any_secret(body: bytes, member: str, secrets: Sequence[SecretStr]) -> bytes:
    """The same for a body whose secret was not compared: it may be unknown, and may be at any depth."""
    presented = top_level_string(body, member)
    known = [*secrets, *([SecretStr(presented)] if presented else [])]
    return without_values(_without_secrets(body, member, known), member)


def _routed(
    provider: Provider,
    event_type: str,
    ids: EventIds,
    body: bytes,
    received_at: datetime,
    provenance: Provenance,
) -> Accepted:
    headers = headers_of_new(provider, event_type, ids, received_at, provenance)
    key = routing_key(provider, event_type)
    message = Message(EVENTS, key, key, headers, body)
    return Accepted(ids.event_id, ids.content_id, message, FAMILY_OF[key])


def shown_type(event_type: str) -> str:
    """An unknown event type in a form that can be stored, sent in a header and shown."""
    return visible(event_type[:LONGEST_TYPE])[:LONGEST_TYPE]


def _unhandled(
    provider: Provider, event_type: str, ids: EventIds, body: bytes, received_at: datetime
) -> Accepted:
    """Goes through the quarantine, whose archiver recognizes it by its reason."""
    shown = shown_type(event_type)
    headers = headers_of_new(provider, shown, ids, received_at, Provenance.WEBHOOK, UNHANDLED)
    key = quarantine_key(provider)
    message = Message(EVENTS, key, key, headers, body)
    return Accepted(
        ids.event_id, ids.content_id, message, None, UNHANDLED, unhandled=routing_key(provider, shown)
    )


def _quarantined(
    provider: Provider, body: bytes, reason: str, received_at: datetime, plain: bytes
) -> Accepted:
    """`plain` is the body before anything in it was encrypted."""
    content_id = identity.content_hash_id(plain)
    ids = EventIds(content_id, content_id)
    headers = headers_of_new(provider, "", ids, received_at, Provenance.WEBHOOK, reason)
    key = quarantine_key(provider)
    message = Message(EVENTS, key, key, headers, body)
    return Accepted(content_id, content_id, message, None, reason)
