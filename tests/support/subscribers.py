"""Subscribers of the change feed over HTTP: their setting, and their queues."""

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.support.stack import Stack

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
SUBSCRIBED = "STOCKHOOK_CHANGES_WEBHOOKS"

Subscribe = Callable[..., None]


@asynccontextmanager
async def subscribing(stack: Stack) -> AsyncIterator[Subscribe]:
    """Configure subscribers by name and URL; their queues are deleted at the end."""
    names: list[str] = []

    def configure(*subscribers: tuple[str, str], private: bool = True) -> None:
        names.extend(name for name, _ in subscribers)
        stack.environment[SUBSCRIBED] = json.dumps(
            [{"name": name, "url": url, "types": ["part.*"], "secret": SECRET} for name, url in subscribers]
        )
        stack.environment["STOCKHOOK_CHANGES_PRIVATE_TARGETS"] = str(private).lower()

    try:
        yield configure
    finally:
        # A running process would declare them again.
        stack.close()
        for name in names:
            for step in ("", ".retry.1s", ".retry.2s", ".retry.3s", ".dead"):
                await stack.delete_queue(f"stockhook.webhook.{name}{step}")
