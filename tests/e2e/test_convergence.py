"""On the real stack, any order, repeats and batches result in the same tables."""

import asyncio
from itertools import islice
from random import Random
from typing import Any

import httpx

from schemas.registry import Provider
from tests.support.stack import Stack, until
from worker.simulator.generator import events
from worker.simulator.lifecycle import GeneratedEvent
from worker.simulator.webhook import Credentials

EVENTS = 600

# Columns with equal values after all orders; not those with the time or number of writes.
PROJECTIONS = {
    "parts": "part_id, external_id, external_id_at, status, is_sellable, occurred_at, event_id",
    "orders": "order_id, status, created_at, cancelled_at",
    "returns": "return_id, order_id, opened_at, updated_at, update_count",
    "buyback_orders": "order_id, status, external_order_id, external_reference, country, payment_type, "
    "currency, total_amount, customer_name, customer_email, customer_telephone, customer_address::text, "
    "account_number_ending, occurred_at, stamps::text",
    "buyback_items": "order_id, item_id, status, model, brand, category, base_amount, total_amount, "
    "currency, rejection_reasons",
    "buyback_shipments": "order_id, tracking_code, carrier, waybill_url, merged_documents_url, "
    "pickup_starts_at, pickup_ends_at, is_reschedule",
    "reminders": "order_id, kind, occurred_at, days",
    "communications": "event_id, kind, order_id, item_id, occurred_at",
    "findings": "kind, family, entity_id, event_id, message",
}


async def play(stack: Stack, sequence: list[GeneratedEvent]) -> None:
    """Post all, a few concurrently."""
    credentials = Credentials.of(stack.settings, Provider)
    gate = asyncio.Semaphore(16)
    async with httpx.AsyncClient(base_url=stack.url, timeout=30) as client:

        async def post(event: GeneratedEvent) -> None:
            webhook = credentials.webhook(event.provider, event.event_type, event.body)
            async with gate:
                answer = await client.post(webhook.path, content=webhook.body, headers=dict(webhook.headers))
            assert answer.status_code == 200

        await asyncio.gather(*map(post, sequence))


async def tables(stack: Stack) -> dict[str, list[tuple[Any, ...]]]:
    contents = {}
    for table, columns in PROJECTIONS.items():
        rows = await stack.fetch(f"SELECT {columns} FROM {table}")
        contents[table] = sorted((tuple(row.values()) for row in rows), key=repr)
    return contents


async def test_the_same_events_end_in_the_same_tables(stack: Stack) -> None:
    sequence = list(islice(events(7), EVENTS))
    shuffled = Random(1).sample(sequence, len(sequence))
    doubled = Random(2).sample([*sequence, *sequence], 2 * len(sequence))
    ends = []
    for number, (order, batch_size, consumers) in enumerate(
        [(sequence, "1", 1), (shuffled, "200", 2), (doubled, "17", 2)]
    ):
        await stack.empty()
        ingest = await stack.started("ingest")
        if number == 1:  # A backlog, which is applied in large batches.
            await play(stack, order)
        workers = [await stack.started("consume", STOCKHOOK_BATCH_SIZE=batch_size) for _ in range(consumers)]
        if number != 1:
            await play(stack, order)

        async def all_applied() -> bool:
            return await stack.count("event_log") == EVENTS and not await stack.depths()

        await until(all_applied, "all are applied", 40)
        assert [worker.stop() for worker in (ingest, *workers)] == [0] * (consumers + 1)
        ends.append(await tables(stack))

    assert len(ends[0]["parts"]) > 50
    assert len(ends[0]["buyback_items"]) > 10
    assert ends[1] == ends[0]
    assert ends[2] == ends[0]
