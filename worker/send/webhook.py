"""The HTTP request by which a marketplace would deliver an event: path, secret, body."""

import re
from dataclasses import dataclass, field
from typing import assert_never

import orjson

from schemas.events import Provider
from worker.settings import BadSettings, Settings

# The first member of this name: in every event `token` stands before `result`.
_TOKEN = re.compile(rb'("token"\s*:\s*)"[^"]*"')


@dataclass(frozen=True, slots=True)
class Webhook:
    """A request that can be sent as often as needed: each time the same bytes."""

    provider: Provider
    event_type: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def path(self) -> str:
        return f"/webhooks/{self.provider}"


def webhook(provider: Provider, event_type: str, body: bytes, settings: Settings) -> Webhook:
    """The request for an event, authenticated with the first of the provider's secrets.

    Also for a Buyback body that is no JSON: its token is replaced as text.

    Raises:
        BadSettings: No secret of this provider is configured.
    """
    headers = {"content-type": "application/json"}
    match provider:
        case Provider.OVOKO:
            headers[settings.ovoko_header] = _first_secret(provider, settings)
        case Provider.BUYBACK:
            token = orjson.dumps(_first_secret(provider, settings))
            body = _TOKEN.sub(lambda member: member[1] + token, body, count=1)
        case unreachable:
            assert_never(unreachable)
    return Webhook(provider, event_type, headers, body)


def _first_secret(provider: Provider, settings: Settings) -> str:
    match provider:
        case Provider.OVOKO:
            name, secrets = "STOCKHOOK_OVOKO_SECRETS", settings.ovoko_secrets
        case Provider.BUYBACK:
            name, secrets = "STOCKHOOK_BUYBACK_TOKENS", settings.buyback_tokens
        case unreachable:
            assert_never(unreachable)
    if not secrets:
        other = next(candidate for candidate in Provider if candidate is not provider)
        raise BadSettings(f"{name} is not set: set it, or send with --provider {other}")
    return secrets[0].get_secret_value()
