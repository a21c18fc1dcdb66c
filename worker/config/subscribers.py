"""Merchants' own HTTP endpoints that receive changes, as the settings name them."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
)

from schemas.changes import PREFIX
from schemas.validation import broken_rules
from worker.config.signing_keys import SigningKey
from worker.config.urls import checked, encoded

# A receiver refuses a header with more signatures: each is compared with each of its secrets.
MOST_SECRETS = 10

ORIGIN_PREFIX = "webhook."


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str | SecretStr) else value


def _secret(secret: SecretStr) -> SecretStr:
    """Raises: BadKey."""
    SigningKey.read(secret.get_secret_value())
    return secret


def _several(secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    if not 1 <= len(secrets) <= MOST_SECRETS:
        raise ValueError(f"must be a secret, or a list of 1 to {MOST_SECRETS}")
    if len({secret.get_secret_value() for secret in secrets}) < len(secrets):
        raise ValueError("must not list the same secret twice")
    return secrets


def _target(url: str) -> str:
    """The URL as it is sent, with international names and paths encoded."""
    text = checked(encoded(url.partition("#")[0]), "https", "http")
    if "#" in url or "@" in urlsplit(text).netloc:
        raise ValueError("must have neither user nor fragment")
    return text


_Pattern = Annotated[str, Field(pattern=r"^[a-z_.*#]{1,100}$")]


class Subscriber(BaseModel):
    """`types` are routing patterns such as `part.sold` or `order.*`, without the prefix.

    `secret` is one, or a list with the newest first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    url: Annotated[str, AfterValidator(_target)]
    secret: Annotated[
        tuple[Annotated[SecretStr, AfterValidator(_secret)], ...],
        BeforeValidator(_as_list),
        AfterValidator(_several),
    ]
    types: Annotated[tuple[_Pattern, ...], Field(min_length=1)] = ("#",)

    @property
    def keys(self) -> tuple[SigningKey, ...]:
        """The keys that sign, the newest first."""
        return tuple(SigningKey.read(secret.get_secret_value()) for secret in self.secret)

    @property
    def routing_keys(self) -> tuple[str, ...]:
        return tuple(PREFIX + name for name in self.types)

    @property
    def origin(self) -> str:
        """Its origin, which is part of the names of its queues."""
        return origin_of(self.name)


def origin_of(name: str) -> str:
    """The origin of a subscriber's dead letters, which is part of the names of its queues."""
    return f"{ORIGIN_PREFIX}{name}"


_SUBSCRIBERS = TypeAdapter(tuple[Subscriber, ...])


def read_subscribers(text: str) -> tuple[Subscriber, ...]:
    """From JSON.

    Raises:
        ValueError: Which field breaks which rule, without its value.
    """
    try:
        subscribers = _SUBSCRIBERS.validate_json(text)
    except ValidationError as error:
        raise ValueError("; ".join(map(str, broken_rules(error)))) from None
    if len({subscriber.name for subscriber in subscribers}) < len(subscribers):
        raise ValueError("each must have a name of its own: its queues are called by it")
    return subscribers
