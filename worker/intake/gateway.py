"""The signature of a gateway's request, and the ids that the gateway gave it. Pure."""

from collections.abc import Mapping, Sequence

from schemas.envelope import LONGEST_EVIDENCE, REQUEST_ID_HEADER, evidence_header
from worker.config.gateway import Gateway, GatewayKey, SignatureScheme
from worker.intake.content_encoding import inflated
from worker.intake.signature import Claim, Refused, Verified, verify_claims


def is_signature_due(gateway: Gateway, headers: Mapping[str, str]) -> bool:
    """Whether a request must have a valid signature. An optional one is verified only if it is there."""
    return gateway.require != "optional" or any(headers.get(name) for name in gateway.scheme.header)


def authenticate(
    scheme: SignatureScheme,
    keys: Sequence[GatewayKey],
    claims: Sequence[Claim],
    body: bytes,
    content_encoding: str,
    limit: int,
) -> Verified | Refused:
    """Verify the body as it was received and, if it was compressed on the way, as it was signed.

    At most `limit` bytes are inflated.
    """
    outcome = verify_claims(scheme, keys, claims, body)
    if isinstance(outcome, Verified):
        return outcome
    plain = inflated(body, content_encoding, limit)
    return outcome if plain is None else verify_claims(scheme, keys, claims, plain)


def evidence_headers(gateway: Gateway | None, headers: Mapping[str, str]) -> dict[str, str]:
    """Headers of a message with the ids that a request has at its gateway and its proxy.

    They are not signed, and stored only for people: no decision depends on them.
    """
    evidence = {}
    for name, candidates in gateway.scheme.evidence.items() if gateway is not None else ():
        for candidate in candidates:
            if value := headers.get(candidate):
                evidence[evidence_header(name)] = inert(value, LONGEST_EVIDENCE)
                break
    if request_id := headers.get(REQUEST_ID_HEADER):
        evidence[REQUEST_ID_HEADER] = inert(request_id, LONGEST_EVIDENCE)
    return evidence


def inert(text: str, longest: int) -> str:
    """Foreign text in visible ASCII, which is safe in any log or header, with at most so many characters."""
    return ascii(text[:longest])[1:-1][:longest]
