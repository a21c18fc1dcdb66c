"""Sends the simulated marketplaces' webhooks to an ingest, and repeats failed ones as Ovoko does."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic

import structlog

from worker.simulator.http_client import Answer, Client
from worker.simulator.lifecycle import GeneratedEvent
from worker.simulator.marketplace import now
from worker.simulator.rate_sender import RESEND_AFTER, Sender, Tally
from worker.simulator.webhook import Credentials, Webhook

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Messenger:
    """Sends each webhook `delay` after its event, independent of earlier ones.

    (An event may be later than its request, because a part has at most one event per second.)
    """

    sender: Sender
    credentials: Credentials
    delay: timedelta
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)

    def send_events(self, events: Sequence[GeneratedEvent]) -> None:
        for event in events:
            webhook = self.credentials.webhook(event.provider, event.event_type, event.body)
            task = asyncio.create_task(self._deliver(webhook, event.occurred_at))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _deliver(self, webhook: Webhook, occurred_at: datetime) -> None:
        pause = self.delay + max(occurred_at - now(), timedelta(0))
        due = monotonic() + pause.total_seconds()
        await asyncio.sleep(due - monotonic())
        if not await self.sender.deliver(webhook, due):
            log.warning("webhook.given_up", type=webhook.event_type)

    def stop(self) -> None:
        """Stop immediately; pending webhooks are lost."""
        for task in self._under_way:
            task.cancel()


@asynccontextmanager
async def messenger(
    url: str,
    credentials: Credentials,
    delay: timedelta,
    resend_after: Sequence[timedelta] = RESEND_AFTER,
) -> AsyncIterator[Messenger]:
    """Raises: BadUrl."""
    async with Client(url) as client:
        sending = Messenger(Sender(client, Tally(), resend_after, _log_accepted), credentials, delay)
        try:
            yield sending
        finally:
            sending.stop()


def _log_accepted(webhook: Webhook, answer: Answer) -> None:
    log.info("webhook.accepted", type=webhook.event_type, status=answer.status)
