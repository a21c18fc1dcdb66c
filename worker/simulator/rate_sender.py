"""Sends like a marketplace: at a steady rate, regardless of answers, and again after failures."""

import asyncio
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic
from typing import Protocol

from worker.simulator.http_client import Answer, NoAnswer
from worker.simulator.webhook import Webhook

# Source: Seeds/001. Ovoko repeats a failed webhook three times.
RESEND_AFTER = (timedelta(seconds=7), timedelta(seconds=35), timedelta(seconds=175))

# The maximum of connections. Further requests wait, which counts as latency.
OPEN_REQUESTS = 128


OnAccepted = Callable[[Webhook, Answer], None]


class Posts(Protocol):
    async def post(self, webhook: Webhook) -> Answer: ...


@dataclass(slots=True)
class Tally:
    """Counts of results. `sent` counts events, `resent` counts requests."""

    sent: int = 0
    accepted: int = 0
    resent: int = 0
    given_up: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    latencies: "array[float]" = field(default_factory=lambda: array("d"))

    def quantile(self, share: float) -> float | None:
        """The quantile of the seconds from the due time of a request to its answer."""
        if not self.latencies:
            return None
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(slots=True)
class Sender:
    """`on_accepted` is called with each answer of 2xx."""

    client: Posts
    tally: Tally
    resend_after: Sequence[timedelta]
    on_accepted: OnAccepted
    _open: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(OPEN_REQUESTS))

    async def play(self, webhooks: Iterable[Webhook], rate: float) -> None:
        """Send one every 1/rate seconds; return when each was accepted or given up.

        Late answers do not reduce the rate.
        """
        began = monotonic()
        async with asyncio.TaskGroup() as deliveries:
            for place, webhook in enumerate(webhooks):
                due = began + place / rate
                await asyncio.sleep(due - monotonic())
                self.tally.sent += 1
                deliveries.create_task(self.deliver(webhook, due))

    async def deliver(self, webhook: Webhook, due: float) -> bool:
        """Send, and repeat after failures; return whether it was accepted. `due` is a time of `monotonic`."""
        if await self._is_accepted(webhook, due):
            return True
        for delay in self.resend_after:
            due = monotonic() + delay.total_seconds()
            await asyncio.sleep(due - monotonic())
            self.tally.resent += 1
            if await self._is_accepted(webhook, due):
                return True
        self.tally.given_up += 1
        return False

    async def _is_accepted(self, webhook: Webhook, due: float) -> bool:
        async with self._open:
            try:
                answer = await self.client.post(webhook)
            except NoAnswer as error:
                self.tally.answers[f"no answer: {error}"] += 1
                return False
        self.tally.latencies.append(monotonic() - due)
        self.tally.answers[str(answer.status)] += 1
        if answer.is_success:
            self.tally.accepted += 1
            self.on_accepted(webhook, answer)
        return answer.is_success
