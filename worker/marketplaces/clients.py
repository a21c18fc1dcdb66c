"""The marketplaces' clients, made when an action first needs them."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from worker.config.proxies import proxy_for
from worker.config.settings import Settings
from worker.marketplaces.buyback.account import account_of
from worker.marketplaces.buyback.client import Seller, selling
from worker.marketplaces.ovoko.client import OvokoApi, open_ovoko


def check_proxies(settings: Settings) -> None:
    """Check that the environment's proxies for the APIs whose credentials are set can be used.

    Raises:
        BadSettings
    """
    for url in settings.api_urls:
        proxy_for(url, os.environ)


@dataclass(slots=True)
class Clients:
    """One of each, for all actions of a process: tokens and limits are shared."""

    settings: Settings
    _stack: AsyncExitStack
    _seller: Seller | None = None
    _ovoko: OvokoApi | None = None

    async def seller(self) -> Seller:
        """Raises: BadSettings, which names what is not set."""
        if self._seller is None:
            account = account_of(self.settings)
            within = timedelta(seconds=self.settings.buyback_timeout)
            self._seller = await self._stack.enter_async_context(selling(account, within))
        return self._seller

    async def ovoko(self) -> OvokoApi:
        """Each call is made once, since the executor has retries of its own.

        Raises: BadSettings, which names what is not set.
        """
        if self._ovoko is None:
            api = await self._stack.enter_async_context(open_ovoko(self.settings))
            self._ovoko = replace(api, attempts=1)
        return self._ovoko


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Clients]:
    """Their connections are closed at the end."""
    async with AsyncExitStack() as stack:
        yield Clients(settings, stack)
