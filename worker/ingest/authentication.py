"""Whether a secret is one of the active ones; several are, while secrets are rotated."""

import hmac
from collections.abc import Sequence

from pydantic import SecretStr


def position(presented: bytes, secrets: Sequence[SecretStr]) -> int | None:
    """Which of the secrets it is, from 0; None if it is none of them.

    Every one is compared, in a time that tells nothing of where they differ.
    """
    matches = [hmac.compare_digest(presented, secret.get_secret_value().encode()) for secret in secrets]
    return matches.index(True) if any(matches) else None
