"""Signs as webhook gateways do, and verifies their signatures. Pure.

Verifying never raises, whatever the headers contain: a malformed header is refused like a wrong one.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from worker.config.gateway import GatewayKey, SignatureScheme

MOST_HEADER_BYTES = 4096
MOST_ENTRIES = 10
LONGEST_ID = 256

_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)
_ID = re.compile(rf"[!-~]{{1,{LONGEST_ID}}}", re.ASCII)
_VERSION = re.compile(r"[A-Za-z0-9_]{1,20}", re.ASCII)
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+", re.ASCII)

# Bytes that stand for an escaped backslash and an escaped quote. JSON contains neither of them as it is.
_BACKSLASH, _QUOTE = b"\x00", b"\x01"
_WHITE_SPACE = b" \t\n\r"
# White space within a value, such as a number, which JSON does not allow.
_WITHIN_VALUE = re.compile(rb'[^{}\[\]:," \t\n\r][ \t\n\r]++[^{}\[\]:,"]')

_HASHES = {"hmac-sha256": "sha256", "hmac-sha512": "sha512"}
_DIGEST_BYTES = {"hmac-sha256": 32, "hmac-sha512": 64, "ed25519": 64}


class Rule(StrEnum):
    """Why a signature was refused."""

    MISSING = "missing"
    INCOMPLETE = "incomplete"
    DOUBLED = "doubled"
    TOO_LONG = "too long"
    TOO_MANY = "too many entries"
    MALFORMED = "malformed"
    UNKNOWN_VERSION = "unknown version"
    EXPIRED = "expired"
    WRONG = "wrong"


class Verified(NamedTuple):
    """`position` is that of the key, from 0."""

    position: int


@dataclass(frozen=True, slots=True)
class Refused:
    """`header` is the name of the header that breaks the rule."""

    rule: Rule
    header: str


class _Entry(NamedTuple):
    """A signature; `is_public_key` is true for ed25519."""

    is_public_key: bool
    digest: bytes


class Claim(NamedTuple):
    """The content of one signature header. The timestamp stays text, since its characters are signed."""

    entries: Sequence[_Entry]
    message_id: bytes
    timestamp: bytes


def read_claims(
    scheme: SignatureScheme, headers: Mapping[str, str], now: datetime
) -> Sequence[Claim] | Refused:
    """The content of the signature headers, before the body has arrived."""
    claims = []
    for place, name in enumerate(scheme.header):
        value = headers.get(name)
        if not value:
            continue
        try:
            claims.append(_read(scheme, place, value, headers, now))
        except _Broken as fault:
            return fault.refusal
    if not claims:
        return Refused(Rule.MISSING, scheme.header[0])
    if len(claims) > 1 and sum(len(claim.entries) for claim in claims) > MOST_ENTRIES:
        return Refused(Rule.TOO_MANY, scheme.header[0])
    return claims


def verify_claims(
    scheme: SignatureScheme, keys: Sequence[GatewayKey], claims: Sequence[Claim], body: bytes
) -> Verified | Refused:
    position = _matching(scheme, keys, claims, body)
    if position is None and scheme.compact_json:
        position = _matching(scheme, keys, claims, compact(body))
    return Refused(Rule.WRONG, scheme.header[0]) if position is None else Verified(position)


def _matching(
    scheme: SignatureScheme, keys: Sequence[GatewayKey], claims: Iterable[Claim], body: bytes
) -> int | None:
    """The position of the first key that signed one of the claims. All keys are always tried."""
    matches = [False] * len(keys)
    for claim in claims:
        text = _signed(scheme, claim.message_id, claim.timestamp, body)
        for position, key in enumerate(keys):
            expected = _digest(scheme, key, text) if key.kind == "shared" else b""
            # A sender could repeat an ed25519 signature, which takes long to verify.
            for entry in claim.entries:
                matches[position] |= _is_signed(key, expected, text, entry)
    return matches.index(True) if any(matches) else None


def _is_signed(key: GatewayKey, expected: bytes, text: bytes, entry: _Entry) -> bool:
    """`expected` is the digest by a shared key; public keys verify instead."""
    if entry.is_public_key != (key.kind != "shared"):
        return False
    if not entry.is_public_key:
        return hmac.compare_digest(expected, entry.digest)
    try:
        _public(key).verify(entry.digest, text)
    except InvalidSignature:
        return False
    return True


def _digest(scheme: SignatureScheme, key: GatewayKey, text: bytes) -> bytes:
    if scheme.algorithm == "static":
        return key.data
    code = _keyed(key.data, _HASHES[scheme.algorithm]).copy()
    code.update(text)
    return code.digest()


@lru_cache(maxsize=64)
def _keyed(key: bytes, algorithm: str) -> hmac.HMAC:
    """A copy of it takes half of the time that `hmac.digest` takes."""
    return hmac.new(key, digestmod=algorithm)


def _public(key: GatewayKey) -> Ed25519PublicKey:
    if key.kind == "private":
        return Ed25519PrivateKey.from_private_bytes(key.data).public_key()
    return Ed25519PublicKey.from_public_bytes(key.data)


class _Broken(Exception):
    def __init__(self, rule: Rule, header: str) -> None:
        super().__init__(rule)
        self.refusal = Refused(rule, header)


def _read(
    scheme: SignatureScheme, place: int, value: str, headers: Mapping[str, str], now: datetime
) -> Claim:
    """Raises: _Broken."""
    name = scheme.header[place]
    value = _checked(name, value)
    if not value.startswith(scheme.prefix):
        raise _Broken(Rule.MALFORMED, name)
    value = value.removeprefix(scheme.prefix)
    parts = [value] if scheme.separator is None else value.split(scheme.separator, MOST_ENTRIES + 1)
    if len(parts) > MOST_ENTRIES:
        raise _Broken(Rule.TOO_MANY, name)
    timestamp = _other(scheme.timestamp_header, place, headers)
    timestamp_name = name
    if scheme.timestamp_key is not None:
        key, mark, text = parts.pop(0).partition("=")
        if key != scheme.timestamp_key or not mark:
            raise _Broken(Rule.MALFORMED, name)
        timestamp = text
    elif scheme.timestamp_header:
        timestamp_name = _name_of(scheme.timestamp_header, place)
    if timestamp is not None:
        _check_timestamp(scheme, timestamp, timestamp_name, now)
    message_id = _other(scheme.id_header, place, headers)
    if message_id is not None and not _is_id(scheme, message_id):
        raise _Broken(Rule.MALFORMED, _name_of(scheme.id_header, place))
    entries = [entry for part in parts if (entry := _entry(scheme, part, name)) is not None]
    if not entries:
        raise _Broken(Rule.UNKNOWN_VERSION if parts else Rule.MALFORMED, name)
    # A repeated entry would be verified again.
    distinct = entries if len(entries) == 1 else list(dict.fromkeys(entries))
    return Claim(distinct, (message_id or "").encode(), (timestamp or "").encode())


def _checked(name: str, value: str) -> str:
    """The value of a header that came once, is ASCII and is not too long. Raises: _Broken."""
    if len(value) > MOST_HEADER_BYTES:
        raise _Broken(Rule.TOO_LONG, name)
    if not value.isascii():
        raise _Broken(Rule.MALFORMED, name)
    # The server joins repeated headers with it, and no scheme has it in a value.
    if ", " in value:
        raise _Broken(Rule.DOUBLED, name)
    return value


def _name_of(names: Sequence[str], place: int) -> str:
    return names[place] if len(names) > 1 else names[0]


def _other(names: Sequence[str], place: int, headers: Mapping[str, str]) -> str | None:
    """The value of the header that goes with a signature header; None if the scheme has none.

    Raises:
        _Broken
    """
    if not names:
        return None
    name = _name_of(names, place)
    value = headers.get(name)
    if not value:
        raise _Broken(Rule.INCOMPLETE, name)
    return _checked(name, value)


def _check_timestamp(scheme: SignatureScheme, timestamp: str, name: str, now: datetime) -> None:
    """Raises: _Broken."""
    if _TIMESTAMP.fullmatch(timestamp) is None:
        raise _Broken(Rule.MALFORMED, name)
    if abs(int(timestamp) - now.timestamp()) > scheme.tolerance:
        raise _Broken(Rule.EXPIRED, name)


def _is_id(scheme: SignatureScheme, message_id: str) -> bool:
    """If an id contained the character that follows it, the signed text could be read in two ways."""
    _, _, rest = scheme.signed.partition("{id}")
    return _ID.fullmatch(message_id) is not None and rest[0] not in message_id


def _entry(scheme: SignatureScheme, part: str, name: str) -> _Entry | None:
    """A signature; None if its version is unknown. Raises: _Broken."""
    is_public_key = scheme.algorithm == "ed25519"
    if scheme.version_key is not None:
        key, mark, part = part.partition(scheme.version_mark)
        if not mark or not part or _VERSION.fullmatch(key) is None or key == scheme.timestamp_key:
            raise _Broken(Rule.MALFORMED, name)
        if key not in (scheme.version_key, scheme.public_key_version):
            return None
        is_public_key = is_public_key or key == scheme.public_key_version
    if scheme.algorithm == "static":
        return _Entry(is_public_key=False, digest=part.encode())
    digest = _decoded(scheme.encoding, part)
    algorithm = "ed25519" if is_public_key else scheme.algorithm
    if digest is None or len(digest) != _DIGEST_BYTES[algorithm]:
        raise _Broken(Rule.MALFORMED, name)
    return _Entry(is_public_key, digest)


def _decoded(encoding: str, text: str) -> bytes | None:
    if encoding == "hex":
        return bytes.fromhex(text) if _HEX.fullmatch(text) else None
    try:
        digest = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return None
    # Each digest has exactly one text: no unused bits, no other padding.
    return digest if binascii.b2a_base64(digest, newline=False).decode() == text else None


def _signed(scheme: SignatureScheme, message_id: bytes, timestamp: bytes, body: bytes) -> bytes:
    if len(scheme.template) == 1:
        return body
    values = {b"{id}": message_id, b"{timestamp}": timestamp, b"{body}": body}
    return b"".join([values.get(part, part) for part in scheme.template])


def compact(body: bytes) -> bytes:
    """JSON without insignificant white space, and otherwise byte for byte, as Go's encoder writes it.

    Bytes that are not JSON do not become JSON. The sender is not authenticated yet, and chooses how many
    strings the body has: no Python code runs for each.
    """
    if _BACKSLASH in body or _QUOTE in body:
        return body
    parts = body.replace(rb"\\", _BACKSLASH).replace(rb"\"", _QUOTE).split(b'"')
    outside = b'"'.join(parts[::2])
    if len(parts) % 2 == 0 or _WITHIN_VALUE.search(outside):
        return body
    parts[::2] = outside.translate(None, _WHITE_SPACE).split(b'"')
    return b'"'.join(parts).replace(_QUOTE, rb"\"").replace(_BACKSLASH, rb"\\")


def sign(
    scheme: SignatureScheme,
    keys: Sequence[GatewayKey],
    body: bytes,
    *,
    message_id: str = "",
    sent_at: datetime,
) -> dict[str, str]:
    """The headers that a gateway sends with a body, by lower-case name; the newest key first.

    Further keys are used if the scheme allows several entries or several headers.
    """
    timestamp = str(int(sent_at.timestamp()))
    text = compact(body) if scheme.compact_json else body
    text = _signed(scheme, message_id.encode(), timestamp.encode(), text)
    entries = [_written(scheme, key, text) for key in keys]
    headers = {}
    if scheme.separator is None:
        headers = {name: scheme.prefix + entry for name, entry in zip(scheme.header, entries, strict=False)}
    else:
        if scheme.timestamp_key is not None:
            entries.insert(0, f"{scheme.timestamp_key}={timestamp}")
        headers = {scheme.header[0]: scheme.prefix + scheme.separator.join(entries)}
    if scheme.id_header:
        headers[scheme.id_header[0]] = message_id
    if scheme.timestamp_header:
        headers[scheme.timestamp_header[0]] = timestamp
    return headers


def _written(scheme: SignatureScheme, key: GatewayKey, text: bytes) -> str:
    if scheme.algorithm == "static":
        return key.data.decode("ascii")
    if key.kind == "private":
        digest = Ed25519PrivateKey.from_private_bytes(key.data).sign(text)
        version = scheme.public_key_version or scheme.version_key
    else:
        digest = _digest(scheme, key, text)
        version = scheme.version_key
    written = digest.hex() if scheme.encoding == "hex" else base64.b64encode(digest).decode()
    return written if version is None else f"{version}{scheme.version_mark}{written}"
