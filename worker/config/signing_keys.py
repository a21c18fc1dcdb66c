"""Keys that sign changes over HTTP, as Standard Webhooks writes them (source: standardwebhooks.com)."""

import base64
from dataclasses import dataclass
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from worker.config.gateway import (
    ED25519_KEY_BYTES,
    PRIVATE_PREFIX,
    PUBLIC_PREFIX,
    GatewayKey,
    read_key,
    read_scheme,
)

STANDARD_WEBHOOKS = read_scheme("standard-webhooks")

# The length of a shared secret.
_FEWEST_BYTES, _MOST_BYTES = 24, 64

_FORM = (
    f"must be whsec_ and the base64 of {_FEWEST_BYTES} to {_MOST_BYTES} bytes, or whsk_ and the base64 of an "
    "ed25519 private key (32 bytes, or 64 with the public key)"
)


class BadKey(ValueError):
    """The text is not a valid key. The message names the rule, not the text."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """`version` stands before each signature of the key; `public_key` is None for a shared secret (v1)."""

    version: Literal["v1", "v1a"]
    public_key: str | None
    key: GatewayKey

    @classmethod
    def read(cls, text: str) -> "SigningKey":
        """A shared secret (`whsec_`) or a private ed25519 key (`whsk_`).

        Raises:
            BadKey
        """
        try:
            key = read_key(STANDARD_WEBHOOKS, text)
        except ValueError:
            raise BadKey(_FORM) from None
        match key.kind:
            case "private":
                return cls("v1a", _checked(text, key), key)
            case "shared" if _FEWEST_BYTES <= len(key.data) <= _MOST_BYTES:
                return cls("v1", None, key)
            case _:
                raise BadKey(_FORM)


def _checked(text: str, key: GatewayKey) -> str:
    """The public key of a private one.

    Raises:
        BadKey: It is followed by another public key.
    """
    public = public_text(key)
    behind = base64.b64decode(text.removeprefix(PRIVATE_PREFIX))[ED25519_KEY_BYTES:]
    if behind and PUBLIC_PREFIX + encoded(behind) != public:
        raise BadKey("the last 32 bytes after whsk_ are not the public key of the first 32")
    return public


def public_text(private: GatewayKey) -> str:
    """The public key of a private one, as it is published."""
    public = Ed25519PrivateKey.from_private_bytes(private.data).public_key()
    return PUBLIC_PREFIX + encoded(public.public_bytes_raw())


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()
