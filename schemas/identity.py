"""How events are distinguished: by an id and a content id, which are the same each time an event is sent.

A sender can choose any id, also one that another event has. So no id is a key by itself: two events are the
same if their id, their marketplace and their content are the same.
"""

import json
from decimal import Decimal
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from schemas.fields import canonical_id

_NAMESPACE = uuid5(NAMESPACE_URL, "urn:stockhook:event")


def event_id(provider: str, given: object, content_id: UUID) -> UUID:
    """The sender's id; if it is not a UUID, one made from it; without one, the content id."""
    text = canonical_id(given)
    if not isinstance(text, str) or not text:
        return content_id
    try:
        return UUID(text)
    except ValueError:
        return uuid5(_NAMESPACE, f"{provider}\n{text}")


def content_id(event_type: str, content: Any) -> UUID:
    """UUIDv5 of the type and the canonical JSON (sorted keys, no spaces) of what the event says."""
    return uuid5(_NAMESPACE, f"{event_type}\n{_CANONICAL.encode(content)}")


def content_hash_id(body: bytes) -> UUID:
    """An id for a body that cannot be read: UUIDv5 of its bytes."""
    return uuid5(_NAMESPACE, body.hex())


def _exactly(number: object) -> dict[str, str]:
    # A plain string would be mistaken for the same digits sent as a string.
    if isinstance(number, Decimal):
        return {"$number": str(number)}
    raise TypeError(type(number).__name__)


# Made once: `json.dumps` makes an encoder for each call.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_exactly)
