"""Whether a secret is one of the active ones; several are, while secrets are rotated."""

import hmac
from collections.abc import Sequence

from pydantic import SecretStr


def position(presented: str, secrets: Sequence[SecretStr]) -> int | None:
    """Which of the secrets it is, from 0; None if it is none of them.

    All secrets are compared, in a time that does not depend on where they differ.
    """
    given = _encoded(presented)
    matches = [hmac.compare_digest(given, secret.get_secret_value().encode()) for secret in secrets]
    return matches.index(True) if any(matches) else None


def _encoded(presented: str) -> bytes:
    """The bytes that were sent: a server hands over those that are no UTF-8 as lone surrogates.

    Other lone surrogates come from JSON, and are part of no secret.
    """
    try:
        return presented.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return presented.encode(errors="surrogatepass")
