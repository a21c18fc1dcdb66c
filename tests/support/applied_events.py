"""Applies events as a consumer does, without a broker."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from uuid import UUID, uuid4

from cryptography.fernet import Fernet, MultiFernet

from consumers.registry import FAMILIES, FAMILY_OF
from schemas.envelope import Envelope
from schemas.events import parse, routing_key
from schemas.identity import content_hash_id
from schemas.registry import Provider
from tests.support.events import Document, body
from tests.support.stack import Stack
from worker.amqp.tap import Delivery
from worker.intake.intake import body_to_store
from worker.pipeline.decode import Decoded
from worker.pipeline.transaction import apply_batch
from worker.postgres.durability import Flusher
from worker.postgres.event_log import Candidate
from worker.postgres.pool import Database
from worker.simulator import generator as marketplace

RECEIVED_AT = datetime(2026, 3, 2, tzinfo=UTC)


@asynccontextmanager
async def database_of(stack: Stack) -> AsyncIterator[Database]:
    database = Database(stack.environment["STOCKHOOK_DATABASE_URL"], 4, "test")
    try:
        yield database
    finally:
        await database.close()


def numbered(document: Document, number: int) -> Decoded:
    """With the sequence number that an ingest gives it."""
    decoded = item(document)
    envelope = decoded.candidate.envelope.model_copy(update={"source": 1, "sequence_number": number})
    return replace(decoded, candidate=replace(decoded.candidate, envelope=envelope))


@asynccontextmanager
async def flusher_of(stack: Stack) -> AsyncIterator[Flusher]:
    async with database_of(stack) as database, Flusher(database) as flusher:
        yield flusher


def item(document: Document, event_id: UUID | None = None, attempt: int = 1) -> Decoded:
    if "event_type" in document:
        return _item(Provider.OVOKO, document["event_type"], body(document), event_id, attempt)
    return _item(Provider.BUYBACK, document["type"], body(document), event_id, attempt)


def _item(
    provider: Provider, event_type: str, body: bytes, event_id: UUID | None = None, attempt: int = 1
) -> Decoded:
    envelope = Envelope.model_validate(
        {
            "x-event-type": event_type,
            "x-provider": provider,
            "x-event-id": event_id or uuid4(),
            "x-content-id": content_hash_id(body),
            "x-received-at": RECEIVED_AT,
            "x-attempt": attempt,
        }
    )
    delivery = Delivery(1, event_type, {}, body, False)
    return Decoded(delivery, Candidate(envelope, parse(provider, body), body))


def generated(family: str, count: int, seed: int = 7) -> list[Decoded]:
    """Generated events, out of order and with repeats."""
    events = marketplace.scrambled(marketplace.events(seed), duplicates=0.1, shuffle=True, seed=seed)
    ours = (event for event in events if FAMILY_OF[routing_key(event.provider, event.event_type)] == family)
    encryptor = MultiFernet([Fernet(Fernet.generate_key())])
    return [
        _item(event.provider, event.event_type, body_to_store(event.provider, event.body, encryptor))
        for event in islice(ours, count)
    ]


async def apply(stack: Stack, family: str, *batches: Sequence[Decoded]) -> None:
    async with flusher_of(stack) as flusher:
        for batch in batches:
            await apply_batch(FAMILIES[family], flusher, batch)


def in_batches(items: Sequence[Decoded], size: int) -> list[Sequence[Decoded]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
