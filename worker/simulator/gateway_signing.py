"""The keys of a simulated gateway, and the settings with which an ingest accepts its signatures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.registry import Provider
from worker.config.gateway import GatewayKey, SignatureScheme, read_key, read_keys, read_scheme
from worker.config.settings import BadSettings, Settings
from worker.config.signing_keys import public_text
from worker.simulator.gateway import new_secret
from worker.simulator.gateway_behaviour import GatewayBehaviour


@dataclass(frozen=True, slots=True)
class Signing:
    """`exported` are settings of the ingest, without prefix and without secrets that were set already."""

    scheme: SignatureScheme
    keys: Sequence[GatewayKey]
    exported: Mapping[str, str]


def signing_of(settings: Settings, behaviour: GatewayBehaviour, secrets_file: Path | None) -> Signing:
    """Use the keys of the file, else those of the settings if they are for this gateway, else a new secret.

    Raises:
        BadSettings: There is no scheme, or no key that can sign.
    """
    is_set = settings.gateway == behaviour.preset
    exported = {"GATEWAY": behaviour.preset}
    if not behaviour.keeps_request:
        exported["GATEWAY_REQUIRE"] = "gateway"
    try:
        scheme = read_scheme(behaviour.preset, settings.gateway_signature if is_set else None)
    except ValueError as error:
        raise BadSettings(f"STOCKHOOK_GATEWAY_SIGNATURE: {error}") from None
    if secrets_file is not None:
        texts = _lines(secrets_file)
        keys = [_key(secrets_file, number, scheme, text) for number, text in enumerate(texts, start=1)]
        public = [
            public_text(key) if key.kind == "private" else text for key, text in zip(keys, texts, strict=True)
        ]
        exported["GATEWAY_SECRETS"] = ",".join(public)
    elif is_set and settings.gateway_secrets:
        keys = [
            key
            for key in read_keys(scheme, settings.gateway_secrets, tuple(Provider))
            if key.kind != "public"
        ]
        if not keys:
            raise BadSettings("STOCKHOOK_GATEWAY_SECRETS: has only public keys: give --secrets-file")
    else:
        secret = new_secret(scheme)
        keys = [read_key(scheme, secret)]
        exported["GATEWAY_SECRETS"] = public_text(keys[0]) if keys[0].kind == "private" else secret
    return Signing(scheme, keys, exported)


def _lines(file: Path) -> list[str]:
    """Raises: BadSettings."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BadSettings(f"--secrets-file: cannot be read: {reason} ({file})") from None
    texts = [line for line in lines if line]
    if not texts:
        raise BadSettings(f"--secrets-file: has no secret ({file})")
    return texts


def _key(file: Path, number: int, scheme: SignatureScheme, text: str) -> GatewayKey:
    """Raises: BadSettings, without the secret."""
    try:
        key = read_key(scheme, text)
    except ValueError as error:
        raise BadSettings(f"--secrets-file: secret {number} {error} ({file})") from None
    if key.kind == "public":
        raise BadSettings(f"--secrets-file: secret {number} is a public key, which cannot sign ({file})")
    return key
