"""The contract between a marketplace and everything that handles its webhooks: data and pure functions."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from schemas.event_schema import EventSchema
from schemas.registry import SCHEMAS, Provider
from worker.config.check import CheckResult
from worker.config.settings import PREFIX, Settings
from worker.marketplaces.shape import Shape

JsonSchema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SecretHeader:
    """Each request has the secret in a header: it is checked before the body is read."""

    name: Callable[[Settings], str]


@dataclass(frozen=True, slots=True)
class SecretMember:
    """Each body has the secret in this member of its outermost object, which is never stored."""

    name: str


Authentication = SecretHeader | SecretMember


@dataclass(frozen=True, slots=True)
class PrivateMembers:
    """Members of a body whose values are encrypted before they leave the ingest.

    `names` are in lower case, without white space and punctuation: other spellings count as the same name.
    `excerpt` makes, of a parsed value, the members that stay readable beside its ciphertext.
    """

    names: frozenset[str]
    excerpt: Callable[[Any], Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Marketplace:
    """One marketplace, as the ingest, the dead letters, the doctor and the simulators know it.

    `title` is its name for people. `secrets_setting` is the setting with the secrets of its webhooks, the
    newest first. Where it has `private` members, a body is encrypted whole if it is broken or its type is
    unknown, and the endpoint is disabled without keys. `shape` is what a redacted body shows;
    `hidden_names` are further documented names, whose values are never shown. `summary` and `body_schema` (of
    the schema of one event) are its part of the OpenAPI document. `api_urls` are those of its API that the
    settings have credentials for, and `check_settings` is its part of `stockhook doctor`.
    """

    name: Provider
    title: str
    secrets_setting: str
    authentication: Authentication
    shape: Shape
    summary: str
    hidden_names: frozenset[str] = frozenset()
    private: PrivateMembers | None = None
    body_schema: Callable[[JsonSchema], JsonSchema] = lambda event: event
    api_urls: Callable[[Settings], tuple[str, ...]] = lambda _settings: ()
    check_settings: Callable[[Settings], Iterator[CheckResult]] = lambda _settings: iter(())

    @property
    def path(self) -> str:
        """Where its webhooks go."""
        return f"/webhooks/{self.name}"

    @property
    def schema(self) -> EventSchema:
        return SCHEMAS[self.name]

    @property
    def secrets_variable(self) -> str:
        return PREFIX + self.secrets_setting.upper()

    def secrets(self, settings: Settings) -> tuple[SecretStr, ...]:
        """The active secrets, the newest first."""
        secrets: tuple[SecretStr, ...] = getattr(settings, self.secrets_setting)
        return secrets

    def disabled_reason(self, settings: Settings) -> str | None:
        """What its endpoint lacks; None if it can be served."""
        gateway = settings.gateway_of(self.name)
        if gateway is not None and not gateway.keys:
            return f"{PREFIX}GATEWAY_SECRETS has no secret for {self.name}."
        is_replaced = gateway is not None and gateway.require == "gateway"
        if not self.secrets(settings) and not is_replaced:
            return f"{self.secrets_variable} is not set."
        if self.private is not None and not settings.sealing_keys:
            return f"{PREFIX}SEALING_KEYS is not set: private data could not be encrypted."
        return None
