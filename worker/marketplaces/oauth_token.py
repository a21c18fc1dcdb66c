"""The access token of a marketplace: fetched once, cached, and renewed before it expires."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

RENEWED_BEFORE = timedelta(seconds=60)


def _fits_a_header(token: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]{1,16384}", token.get_secret_value()):
        raise ValueError("it is not a token")
    return token


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class Granted(BaseModel):
    """The token endpoint's answer (RFC 6749, 5.1). Without `expires_in`: five minutes."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    access_token: Annotated[SecretStr, AfterValidator(_fits_a_header)]
    token_type: Annotated[Literal["bearer"], BeforeValidator(_lower)] = "bearer"
    expires_in: Annotated[int, Field(gt=0)] = 300

    @property
    def lifetime(self) -> timedelta:
        """The time until the renewal: a minute before the end, or a tenth of a shorter lifetime."""
        whole = timedelta(seconds=min(self.expires_in, 86_400))
        return whole - min(RENEWED_BEFORE, whole / 10)


@dataclass(slots=True)
class TokenCache:
    """Calls `fetch` once at a time for all callers. `clock` returns seconds."""

    fetch: Callable[[], Awaitable[Granted]]
    clock: Callable[[], float] = monotonic
    _token: str | None = field(default=None, repr=False)
    _renew_at: float = 0.0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def token(self, refused: str | None = None) -> str:
        """A token that should be valid, and is not the `refused` one.

        Raises:
            CallFailed: As `fetch` does.
        """
        async with self._lock:
            if self._token is None or self._token == refused or self.clock() >= self._renew_at:
                granted = await self.fetch()
                self._token = granted.access_token.get_secret_value()
                self._renew_at = self.clock() + granted.lifetime.total_seconds()
            return self._token
