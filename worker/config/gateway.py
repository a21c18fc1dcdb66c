"""How webhook gateways sign: the grammar of signature schemes, the presets written in it, and the keys."""

import base64
import binascii
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

CUSTOM = "custom"

# The secrets that a request must have: the gateway's and the marketplace's; only the gateway's; or, for
# switching over, the marketplace's, and the gateway's if there is a signature.
Requirement = Literal["both", "gateway", "optional"]

SHARED_PREFIX = "whsec_"
PUBLIC_PREFIX = "whpk_"
PRIVATE_PREFIX = "whsk_"

ED25519_KEY_BYTES = 32

_PLACEHOLDER = re.compile(r"(\{[^{}]*\})")
_BODY, _ID, _TIMESTAMP = "{body}", "{id}", "{timestamp}"

# A secret that is bound to a marketplace, or was intended to be. No gateway creates secrets of this form.
_BOUND = re.compile(r"([a-z][a-z0-9_-]{1,19} *)= *(.{4,})", re.DOTALL | re.IGNORECASE)

_SIGNATURE = "-signature"


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


_HeaderName = Annotated[str, BeforeValidator(_lower), Field(pattern=r"^[a-z0-9_-]{1,100}$")]
_HeaderNames = Annotated[tuple[_HeaderName, ...], BeforeValidator(_listed), Field(max_length=4)]
_Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,20}$")]
# Without line ends and other bytes that no header may have.
_Visible = Annotated[str, Field(pattern=r"^[ -~]{0,40}$")]

EvidenceName = Literal["event", "attempt", "request", "url"]


class SignatureScheme(BaseModel):
    """Where a gateway puts its signatures, and what they sign.

    The header's value is `prefix`, then entries, divided by `separator`; without a separator, one entry. With
    `version_key`, an entry is the key, `version_mark` and the digest, and entries with other keys are
    ignored; an entry with `public_key_version` is an ed25519 signature. With `timestamp_key`, the first entry
    is that key, `=` and the timestamp. Of several `header` names, each present one counts; `id_header` and
    `timestamp_header` have one name for all of them, or one for each. With `compact_json`, if the body as
    received does not match, its JSON without insignificant white space is tried. `evidence` names headers, in
    order of preference, whose values are stored beside the event; they are not signed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    header: Annotated[_HeaderNames, Field(min_length=1)]
    algorithm: Literal["hmac-sha256", "hmac-sha512", "ed25519", "static"] = "hmac-sha256"
    encoding: Literal["hex", "base64"] = "hex"
    prefix: _Visible = ""
    separator: Literal[" ", ",", ";"] | None = None
    version_key: _Key | None = None
    version_mark: Literal["=", ","] = "="
    public_key_version: _Key | None = None
    signed: Annotated[str, Field(max_length=200)] = _BODY
    id_header: _HeaderNames = ()
    timestamp_header: _HeaderNames = ()
    timestamp_key: _Key | None = None
    tolerance: Annotated[int, Field(ge=1, le=86_400)] = 300
    secret: Literal["text", "base64", "whsec"] = "text"
    compact_json: bool = False
    evidence: dict[EvidenceName, _HeaderNames] = {}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        fault = self._fault()
        if fault is not None:
            raise ValueError(fault)
        return self

    def _fault(self) -> str | None:
        placeholders = _PLACEHOLDER.findall(self.signed)
        unknown = set(placeholders) - {_BODY, _ID, _TIMESTAMP}
        if unknown:
            return f"signed: knows {{id}}, {{timestamp}} and {{body}}, not {min(unknown)}"
        if placeholders.count(_BODY) != 1 or len(set(placeholders)) < len(placeholders):
            return "signed: must contain {body} once, and {id} and {timestamp} once at most"
        if not self.signed.endswith(_BODY):
            return "signed: must end with {body}, since its bytes could count as those of the other parts"
        # Digits that move between a timestamp and its neighbours put it outside of the tolerance.
        if f"{_ID}{{" in self.signed:
            return "signed: must contain other characters after {id}, which show where it ends"
        if (_ID in placeholders) != bool(self.id_header):
            return "signed: must contain {id} if, and only if, there is an id_header"
        if self.timestamp_header and self.timestamp_key:
            return "timestamp_key: the timestamp is in a header or in the signature, not in both"
        if (_TIMESTAMP in placeholders) != bool(self.timestamp_header or self.timestamp_key):
            return "signed: must contain {timestamp} if, and only if, there is a timestamp_header or _key"
        for name, names in (("id_header", self.id_header), ("timestamp_header", self.timestamp_header)):
            if len(names) not in (0, 1, len(self.header)):
                return f"{name}: must have one name, or one for each name of header"
        if (self.timestamp_key or self.version_key) and self.separator == self.version_mark:
            return "separator: must differ from version_mark"
        if self.timestamp_key and self.separator is None:
            return "separator: is required with timestamp_key"
        if self.public_key_version is not None and self.version_key is None:
            return "version_key: is required with public_key_version"
        if self.secret == "text" and (self.algorithm == "ed25519" or self.public_key_version):
            return "secret: must be base64 or whsec, since ed25519 keys are not text"
        if self.algorithm == "static" and (self.signed != _BODY or self.secret != "text"):
            return "algorithm: static has neither signed nor a form of the secret"
        return None

    @cached_property
    def template(self) -> tuple[bytes, ...]:
        """The signed text in parts: placeholders, and the text between them."""
        return tuple(part.encode() for part in _PLACEHOLDER.split(self.signed) if part)


_STANDARD: dict[str, Any] = {
    "encoding": "base64",
    "separator": " ",
    "version_key": "v1",
    "version_mark": ",",
    "public_key_version": "v1a",
    "signed": "{id}.{timestamp}.{body}",
    "secret": "whsec",
}

# In the form of STOCKHOOK_GATEWAY_SIGNATURE.
PRESETS = MappingProxyType[str, dict[str, Any]](
    {
        "hookdeck": {
            "header": ["x-hookdeck-signature", "x-hookdeck-signature-2"],
            "encoding": "base64",
            "evidence": {
                "event": "x-hookdeck-eventid",
                "attempt": "x-hookdeck-attempt-count",
                "request": "x-hookdeck-requestid",
                "url": "x-hookdeck-event-url",
            },
        },
        "standard-webhooks": {
            **_STANDARD,
            "header": "webhook-signature",
            "id_header": "webhook-id",
            "timestamp_header": "webhook-timestamp",
            "evidence": {"event": "webhook-id"},
        },
        "svix": {
            **_STANDARD,
            "header": ["svix-signature", "webhook-signature"],
            "id_header": ["svix-id", "webhook-id"],
            "timestamp_header": ["svix-timestamp", "webhook-timestamp"],
            "evidence": {"event": ["svix-id", "webhook-id"]},
        },
        "convoy": {
            "header": "x-convoy-signature",
            "separator": ",",
            "timestamp_key": "t",
            "version_key": "v1",
            "signed": "{timestamp},{body}",
            "compact_json": True,
            "evidence": {
                # Convoy sends the key always, the ids if a project is configured so.
                "event": ["x-convoy-event-id", "x-convoy-idempotency-key"],
                "request": "x-convoy-eventdelivery-id",
            },
        },
        "outpost": {
            "header": "x-outpost-signature",
            "prefix": "v0=",
            "separator": ",",
            "evidence": {"event": "x-outpost-event-id"},
        },
        "header": {"header": "x-gateway-secret", "algorithm": "static"},
        "github": {
            "header": "x-hub-signature-256",
            "prefix": "sha256=",
            "evidence": {"event": "x-github-delivery"},
        },
        "shopify": {
            "header": "x-shopify-hmac-sha256",
            "encoding": "base64",
            "evidence": {"event": "x-shopify-webhook-id"},
        },
        "stripe": {
            "header": "stripe-signature",
            "separator": ",",
            "timestamp_key": "t",
            "version_key": "v1",
            "signed": "{timestamp}.{body}",
        },
    }
)

_MEMBERS = TypeAdapter(dict[str, Any])


def read_scheme(name: str, overrides: str | None = None, tolerance: int | None = None) -> SignatureScheme:
    """A preset, with single members replaced by those of a JSON object; for `custom`, it has all members.

    A member that is null has its default. Unless the object has `evidence`, a preset's follows its headers.

    Raises:
        ValueError: Which member breaks which rule.
    """
    try:
        members = _MEMBERS.validate_json(overrides) if overrides else {}
    except ValidationError:
        raise ValueError("must be a JSON object") from None
    preset = {} if name == CUSTOM else PRESETS[name]
    merged = {**preset, **members}
    if merged.get("tolerance") is None:
        merged["tolerance"] = tolerance
    try:
        scheme = SignatureScheme.model_validate(
            {member: value for member, value in merged.items() if value is not None}
        )
    except ValidationError as error:
        raise ValueError("; ".join(_rule(detail) for detail in error.errors(include_url=False))) from None
    if "evidence" in members:
        return scheme
    return scheme.model_copy(update={"evidence": _evidence(name, scheme)})


def _evidence(name: str, scheme: SignatureScheme) -> dict[EvidenceName, tuple[str, ...]]:
    """The evidence of a preset whose headers may have other names now."""
    match name:
        case "standard-webhooks" | "svix":
            return {"event": scheme.id_header}
        # Their users choose what the names of all headers begin with.
        case "hookdeck" | "outpost" if scheme.header[0].endswith(_SIGNATURE):
            was, now = f"x-{name}", scheme.header[0].removesuffix(_SIGNATURE)
            return {
                kind: tuple(now + header.removeprefix(was) for header in headers)
                for kind, headers in scheme.evidence.items()
            }
        case _:
            return scheme.evidence


def _rule(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    rule = str(detail["msg"]).removeprefix("Value error, ")
    return f"{where}: {rule}" if where else rule


@dataclass(frozen=True, slots=True)
class GatewayKey:
    """A key that signs or verifies, for one `marketplace` only, or for all (None)."""

    kind: Literal["shared", "public", "private"]
    data: bytes = field(repr=False)
    marketplace: str | None = None


def read_key(scheme: SignatureScheme, text: str, marketplace: str | None = None) -> GatewayKey:
    """Raises: ValueError, without the secret."""
    if scheme.secret == "text":
        return GatewayKey("shared", _text_key(scheme, text), marketplace)
    for prefix, kind in ((PUBLIC_PREFIX, "public"), (PRIVATE_PREFIX, "private")):
        if text.startswith(prefix):
            return _ed25519_key(scheme, kind, _decoded(text.removeprefix(prefix)), marketplace)
    if scheme.algorithm == "ed25519":
        return _ed25519_key(scheme, "public", _decoded(text), marketplace)
    if scheme.secret == "whsec" and not text.startswith(SHARED_PREFIX):
        raise ValueError("must begin with whsec_, or with whpk_ for a public key")
    return GatewayKey("shared", _decoded(text.removeprefix(SHARED_PREFIX)), marketplace)


def _text_key(scheme: SignatureScheme, text: str) -> bytes:
    if scheme.algorithm == "static" and not (text.isascii() and text.isprintable()):
        raise ValueError("must be visible ASCII characters, since a header contains it")
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("must not contain control characters")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be UTF-8") from None


def _ed25519_key(scheme: SignatureScheme, kind: str, data: bytes, marketplace: str | None) -> GatewayKey:
    if scheme.algorithm != "ed25519" and scheme.public_key_version is None:
        raise ValueError("is an ed25519 key, which this scheme does not use")
    if kind == "private":
        # Some are followed by the public key.
        if len(data) not in (ED25519_KEY_BYTES, 2 * ED25519_KEY_BYTES):
            raise ValueError("must be whsk_ and the base64 of 32 or 64 bytes")
        return GatewayKey("private", data[:ED25519_KEY_BYTES], marketplace)
    if len(data) != ED25519_KEY_BYTES:
        raise ValueError("must be whpk_ and the base64 of 32 bytes")
    return GatewayKey("public", data, marketplace)


def _decoded(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        raise ValueError("must be base64")
    return data


def read_keys(
    scheme: SignatureScheme, secrets: Sequence[SecretStr], marketplaces: Collection[str]
) -> tuple[GatewayKey, ...]:
    """The keys of STOCKHOOK_GATEWAY_SECRETS, such as `whsec_…`, or `MARKETPLACE=whsec_…` for one marketplace.

    Raises:
        ValueError: Which one breaks which rule, by its number from 1 and without its text.
    """
    keys = []
    for number, secret in enumerate(secrets, start=1):
        text = secret.get_secret_value()
        bound = _BOUND.fullmatch(text)
        marketplace = None
        if bound is not None:
            marketplace, text = bound.groups()
            if marketplace not in marketplaces:
                known = ", ".join(sorted(marketplaces))
                raise ValueError(f"secret {number} names no marketplace: before = must be one of {known}")
        try:
            key = read_key(scheme, text, marketplace)
        except ValueError as error:
            raise ValueError(f"secret {number} {error}") from None
        if key.kind == "private":
            raise ValueError(f"secret {number} is a private key, which belongs to the gateway: set its whpk_")
        keys.append(key)
    return tuple(keys)


@dataclass(frozen=True)
class Gateway:
    """The gateway in front of the ingest, as the settings describe it; its keys, the newest first."""

    scheme: SignatureScheme
    require: Requirement
    keys: tuple[GatewayKey, ...] = field(repr=False)

    def of(self, marketplace: str) -> Self:
        """The gateway with the keys that are valid for this marketplace."""
        return replace(self, keys=tuple(key for key in self.keys if key.marketplace in (None, marketplace)))

    @cached_property
    def has_public_key(self) -> bool:
        return any(key.kind == "public" for key in self.keys)
