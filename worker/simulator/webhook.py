"""The HTTP request by which a marketplace would deliver an event: path, secret, body."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self, assert_never

import orjson

from schemas.events import Provider
from worker.config.settings import BadSettings, Settings

# The first member of this name: in every event `token` stands before `result`.
_TOKEN = re.compile(rb'("token"\s*:\s*)"[^"]*"')


@dataclass(frozen=True, slots=True)
class Webhook:
    """A request that can be sent as often as needed: the same bytes each time."""

    provider: Provider
    event_type: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def path(self) -> str:
        return f"/webhooks/{self.provider}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """By which an ingest knows the marketplaces: the first of each one's secrets."""

    ovoko_header: str
    secrets: Mapping[Provider, str] = field(repr=False)

    @classmethod
    def of(cls, settings: Settings, providers: Iterable[Provider]) -> Self:
        """Those of these providers.

        Raises:
            BadSettings: One of them has no secret.
        """
        return cls(settings.ovoko_header, {provider: _secret(provider, settings) for provider in providers})

    def webhook(self, provider: Provider, event_type: str, body: bytes) -> Webhook:
        """The authenticated request for an event.

        A Buyback body's token is replaced as text, so that one that is no JSON can be sent as well.
        """
        headers = {"content-type": "application/json"}
        match provider:
            case Provider.OVOKO:
                headers[self.ovoko_header] = self.secrets[provider]
            case Provider.BUYBACK:
                token = orjson.dumps(self.secrets[provider])
                body = _TOKEN.sub(lambda member: member[1] + token, body, count=1)
            case unreachable:
                assert_never(unreachable)
        return Webhook(provider, event_type, headers, body)


def _secret(provider: Provider, settings: Settings) -> str:
    match provider:
        case Provider.OVOKO:
            name, secrets = "STOCKHOOK_OVOKO_SECRETS", settings.ovoko_secrets
        case Provider.BUYBACK:
            name, secrets = "STOCKHOOK_BUYBACK_TOKENS", settings.buyback_tokens
        case unreachable:
            assert_never(unreachable)
    if not secrets:
        (other,) = (candidate for candidate in Provider if candidate is not provider)
        raise BadSettings(f"{name} is not set: set it, or give --provider {other}")
    return secrets[0].get_secret_value()
