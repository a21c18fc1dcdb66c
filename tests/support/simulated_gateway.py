"""A simulated webhook gateway as a process, and a load for it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from schemas.registry import Provider
from tests.support.stack import Stack, free_port, http_client, until
from worker.config.settings import Settings
from worker.simulator import generator
from worker.simulator.http_client import Client
from worker.simulator.rate_sender import Sender, Tally
from worker.simulator.webhook import Credentials, Webhook

# Hookdeck's first retry delay of a minute becomes 0.12 s.
TIME_SCALE = "0.002"


class Gateway:
    """`stockhook simulate gateway` in front of the stack's ingest or `forward_to`."""

    def __init__(
        self, stack: Stack, scheme: str, *options: str, forward_to: str | None = None, **overrides: str
    ) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        forwarding = (
            "--forward-to",
            forward_to or stack.url,
            "--port",
            str(port),
            "--time-scale",
            TIME_SCALE,
        )
        self.worker = stack.start(
            "simulate", "gateway", "--scheme", scheme, *forwarding, *options, **overrides
        )

    async def ready(self) -> "Gateway":
        async def listens() -> bool:
            assert self.worker.process.poll() is None, self.worker.lines()
            return "export STOCKHOOK_GATEWAY=" in self.worker.lines()

        await until(listens, "the gateway prints its settings")
        return self

    async def state(self) -> dict[str, Any]:
        async with http_client() as client:
            state: dict[str, Any] = (await client.get(f"{self.url}/control/state")).json()
        return state

    async def control(self, path: str, document: object = None) -> Any:
        async with http_client() as client:
            response = await client.post(f"{self.url}/control/{path}", json=document)
        assert response.status_code == 200, response.text
        return response.json()

    async def accepts(self, events: int) -> int:
        """Wait until this many further events were accepted; return the total."""
        target = (await self.state())["accepted"] + events

        async def has_accepted() -> int:
            accepted: int = (await self.state())["accepted"]
            return accepted if accepted >= target else 0

        accepted: int = await until(has_accepted, f"the gateway accepted {events} more", 60)
        return accepted

    async def is_empty(self) -> dict[str, Any]:
        async def none_waits() -> bool:
            return (await self.state())["waiting"] == 0

        await until(none_waits, "each event was delivered or given up", 60)
        return await self.state()


@asynccontextmanager
async def load(settings: Settings, url: str, rate: float) -> AsyncIterator[Tally]:
    """Send generated webhooks to this URL while the context is open. Its end waits until all are settled."""
    credentials = Credentials.of(settings, tuple(Provider))
    tally = Tally()
    is_over = asyncio.Event()

    def webhooks() -> Iterator[Webhook]:
        for event in generator.events(seed=1):
            if is_over.is_set():
                return
            yield credentials.webhook(event.provider, event.event_type, event.body)

    async with Client(url, timeout_seconds=10) as client:
        sending = asyncio.create_task(Sender(client, tally, (), lambda *_: None).play(webhooks(), rate))
        try:
            yield tally
        finally:
            is_over.set()
            await sending
