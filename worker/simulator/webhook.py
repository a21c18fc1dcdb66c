"""The HTTP request with which a marketplace delivers an event: path, secret, body."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self, assert_never

import orjson

from schemas.registry import Provider
from worker.config.settings import BadSettings, Settings
from worker.marketplaces.contract import Marketplace, SecretHeader, SecretMember
from worker.marketplaces.registry import MARKETPLACES


@dataclass(frozen=True, slots=True)
class Webhook:
    """A request that can be repeated with the same bytes."""

    provider: Provider
    event_type: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def path(self) -> str:
        return f"/webhooks/{self.provider}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """The first secret of each marketplace.

    `headers` has the header of the secret, unless it is in the body.
    """

    headers: Mapping[Provider, str]
    secrets: Mapping[Provider, str] = field(repr=False)

    @classmethod
    def of(cls, settings: Settings, providers: Iterable[Provider]) -> Self:
        """The credentials of these providers.

        Raises:
            BadSettings: One of them has no secret.
        """
        marketplaces = [MARKETPLACES[provider] for provider in providers]
        headers = {
            marketplace.name: marketplace.authentication.name(settings)
            for marketplace in marketplaces
            if isinstance(marketplace.authentication, SecretHeader)
        }
        return cls(
            headers, {marketplace.name: _secret(marketplace, settings) for marketplace in marketplaces}
        )

    def webhook(self, provider: Provider, event_type: str, body: bytes) -> Webhook:
        """The authenticated request for an event.

        A secret in the body is replaced as text, so that bodies that are no JSON can be sent too.
        """
        headers = {"content-type": "application/json"}
        secret = self.secrets[provider]
        match MARKETPLACES[provider].authentication:
            case SecretHeader():
                headers[self.headers[provider]] = secret
            case SecretMember(name=name):
                quoted = orjson.dumps(secret)
                # The first member with this name precedes the content of the event.
                member = rb'("%s"\s*:\s*)"[^"]*"' % name.encode()
                body = re.sub(member, lambda match: match[1] + quoted, body, count=1)
            case unreachable:
                assert_never(unreachable)
        return Webhook(provider, event_type, headers, body)


def _secret(marketplace: Marketplace, settings: Settings) -> str:
    secrets = marketplace.secrets(settings)
    if not secrets:
        others = " or ".join(other for other in MARKETPLACES if other is not marketplace.name)
        raise BadSettings(f"{marketplace.secrets_variable} is not set: set it, or use --provider {others}")
    return secrets[0].get_secret_value()
