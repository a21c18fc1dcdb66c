"""The marketplaces' API clients, opened when an action first needs them."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from worker.config.proxies import proxy_for
from worker.config.settings import Settings
from worker.marketplaces.registry import api_urls

C = TypeVar("C")

# A function that opens a client. It raises BadSettings if a setting is missing.
OpenClient = Callable[[Settings], AbstractAsyncContextManager[C]]


def check_proxies(settings: Settings) -> None:
    """Check that the environment's proxies for the APIs whose credentials are set can be used.

    Raises:
        BadSettings
    """
    for url in api_urls(settings):
        proxy_for(url, os.environ)


@dataclass(slots=True)
class Clients:
    """One client of each kind for all actions of a process: they share tokens and limits."""

    settings: Settings
    _stack: AsyncExitStack
    _opened: dict[OpenClient[Any], Any] = field(default_factory=dict)

    async def get(self, open_client: OpenClient[C]) -> C:
        """The client that this function opens.

        Raises:
            BadSettings
        """
        if open_client not in self._opened:
            client = await self._stack.enter_async_context(open_client(self.settings))
            self._opened[open_client] = client
        opened: C = self._opened[open_client]
        return opened


@asynccontextmanager
async def open_clients(settings: Settings) -> AsyncIterator[Clients]:
    """Clients whose connections are closed at the end of the context."""
    async with AsyncExitStack() as stack:
        yield Clients(settings, stack)
