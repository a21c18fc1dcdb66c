"""The load: generated events, some of them malformed, and a record of the answers."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random
from time import monotonic
from uuid import UUID

import orjson

from schemas.envelope import Envelope
from schemas.registry import Provider
from worker.config.settings import Settings
from worker.intake.intake import Accepted, accept
from worker.marketplaces.registry import MARKETPLACES
from worker.simulator.generator import events, scrambled
from worker.simulator.http_client import Answer
from worker.simulator.lifecycle import GeneratedEvent
from worker.simulator.webhook import Credentials, Webhook

DUPLICATES = 0.1
# A long run sends more events than a generated marketplace has until today.
CLOCK_TOLERANCE = timedelta(days=36_500)

# Shares of events that are followed by a malformed one, or by another one with the same id.
MALFORMED_SHARE = 0.01
ID_USED_TWICE = 0.01

# The delays after failures: those of the marketplaces, shortened so that a run ends.
RESEND_AFTER = tuple(timedelta(seconds=seconds) for seconds in (1, 2, 4, 8, 8))


def generated(seed: int) -> Iterator[GeneratedEvent]:
    """Events out of order, with repeats, ids that are used twice, and unreadable bodies."""
    rng = Random(seed)
    for event in scrambled(events(seed), duplicates=DUPLICATES, shuffle=True, seed=seed):
        yield event
        if event.provider is Provider.OVOKO and rng.random() < ID_USED_TWICE:
            yield _under_the_same_id(event)
        if rng.random() < MALFORMED_SHARE:
            yield _malformed(rng, event)


def _under_the_same_id(event: GeneratedEvent) -> GeneratedEvent:
    document = orjson.loads(event.body)
    inner = document.get("event", document)
    occurred_at = event.occurred_at + timedelta(seconds=1)
    inner["timestamp"] = occurred_at.isoformat()
    return replace(event, occurred_at=occurred_at, body=orjson.dumps(document))


def _malformed(rng: Random, event: GeneratedEvent) -> GeneratedEvent:
    """Make an authentic event that belongs to the quarantine."""
    mark = rng.getrandbits(64)
    match rng.randrange(3):
        case 0:
            body, provider = b'{"event_id": "%d", ' % mark, Provider.OVOKO
        case 1:
            body, provider = b'{"event_type": "part.painted", "event_id": "%d"}' % mark, Provider.OVOKO
        case _:
            body, provider = b'{"token": "", "type": "ItemSungEvent", "result": %d}' % mark, Provider.BUYBACK
    return replace(event, provider=provider, event_type="malformed", body=body)


@dataclass(frozen=True, slots=True)
class Identity:
    """Identifies an event: its received id, and the id of its content."""

    event_id: UUID
    content_id: UUID


@dataclass(slots=True)
class Sent:
    """A sent event, and all answers to it."""

    webhook: Webhook
    accepted: int = 0
    answered_ids: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Record:
    """All sent events with their answers. An event that was sent twice is one entry."""

    sent: dict[tuple[Provider, bytes], Sent] = field(default_factory=dict)
    last_accepted: float = field(default_factory=monotonic)
    accepted: int = 0
    longest_silence: float = 0.0
    """The longest time between two answers of 2xx since the last reset, in seconds."""

    def on_accepted(self, webhook: Webhook, answer: Answer) -> None:
        entry = self.sent[webhook.provider, webhook.body]
        entry.accepted += 1
        entry.answered_ids.add(str(json.loads(answer.body)["event_id"]))
        self.accepted += 1
        now = monotonic()
        self.longest_silence = max(self.longest_silence, now - self.last_accepted)
        self.last_accepted = now

    def recorded(self, webhooks: Iterable[Webhook], goes_on: Callable[[], bool]) -> Iterator[Webhook]:
        """Yield webhooks while `goes_on`; each is recorded before it is sent."""
        for webhook in webhooks:
            if not goes_on():
                return
            self.sent.setdefault((webhook.provider, webhook.body), Sent(webhook))
            yield webhook


def webhooks(seed: int, credentials: Credentials) -> Iterator[Webhook]:
    for event in generated(seed):
        yield credentials.webhook(event.provider, event.event_type, event.body)


@dataclass(frozen=True, slots=True)
class Taken:
    """The result of the ingest for a webhook, computed by the same pure functions."""

    identity: Identity
    message_body: bytes
    provider: Provider
    is_malformed: bool


def take(webhook: Webhook, settings: Settings) -> Taken:
    now = datetime.now(UTC)
    secrets = MARKETPLACES[webhook.provider].secrets(settings)
    intake = accept(webhook.provider, webhook.body, now, secrets, settings.encryptor)
    assert isinstance(intake, Accepted), "generated webhooks are authentic"
    envelope = Envelope.from_headers(intake.message.headers)
    identity = Identity(envelope.event_id, envelope.content_id)
    return Taken(identity, intake.message.body, webhook.provider, intake.reason is not None)
