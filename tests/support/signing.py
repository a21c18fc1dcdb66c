"""Published keys (SECRET from Standard Webhooks' documents, the pair from Svix's tests), and verification."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from worker.config.gateway import GatewayKey, SignatureScheme
from worker.intake.signature import Refused, Verified, read_claims, verify_claims

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
PRIVATE_KEY = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
PUBLIC_KEY = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="


def verify(
    scheme: SignatureScheme,
    keys: Sequence[GatewayKey],
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
) -> Verified | Refused:
    """Verify headers and body in one step. `headers` has lower-case names."""
    claims = read_claims(scheme, headers, now)
    return claims if isinstance(claims, Refused) else verify_claims(scheme, keys, claims, body)
