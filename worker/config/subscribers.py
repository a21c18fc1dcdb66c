"""Merchants' own HTTP endpoints that receive changes, as the settings name them."""

import base64
import binascii
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError

from schemas.changes import PREFIX
from worker.config.urls import checked, encoded

# As Standard Webhooks has them: base64 of 24 to 64 bytes after this.
SECRET_PREFIX = "whsec_"

ORIGIN_PREFIX = "webhook."


def _key(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith(SECRET_PREFIX) or not 24 <= len(key) <= 64:
        raise ValueError("must be whsec_ and the base64 of 24 to 64 bytes")
    return secret


def _target(url: str) -> str:
    """The URL as it is sent, with international names and paths encoded."""
    text = checked(encoded(url.partition("#")[0]), "https", "http")
    if "#" in url or "@" in urlsplit(text).netloc:
        raise ValueError("must have neither user nor fragment")
    return text


_Pattern = Annotated[str, Field(pattern=r"^[a-z_.*#]{1,100}$")]


class Subscriber(BaseModel):
    """`types` are routing patterns such as `part.sold` or `order.*`, without the prefix."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    url: Annotated[str, AfterValidator(_target)]
    secret: Annotated[SecretStr, AfterValidator(_key)]
    types: Annotated[tuple[_Pattern, ...], Field(min_length=1)] = ("#",)

    @property
    def key(self) -> bytes:
        return base64.b64decode(self.secret.get_secret_value().removeprefix(SECRET_PREFIX))

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
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise ValueError(
            "; ".join(
                f"{'.'.join(map(str, detail['loc']))}: {detail['msg'].removeprefix('Value error, ')}"
                for detail in details
            )
        ) from None
    if len({subscriber.name for subscriber in subscribers}) < len(subscribers):
        raise ValueError("each must have a name of its own: its queues are called by it")
    return subscribers
