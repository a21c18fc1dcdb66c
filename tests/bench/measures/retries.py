"""Lateness of messages that leave a retry queue."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from time import monotonic
from uuid import uuid4

import aiormq
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Basic

from tests.bench.lineup import STOCKHOOK
from tests.bench.plan import Bench
from tests.bench.world import World
from worker.amqp.queue_set import QueueSet, RetryQueue, main_queue
from worker.amqp.topology import RETURN

FAMILY = "inventory"
CROWD, QUICK_CROWD = 5_000, 500

# Unconfirmed messages at a time.
TOGETHER = 100
PATIENCE_SECONDS = 60.0

# The approximate size of an event of a part.
BODY = b"x" * 300


async def retries(bench: Bench) -> None:
    quick, queues = bench.options.is_quick, QueueSet.of(FAMILY, bench.world.settings.delays).retries
    crowd = QUICK_CROWD if quick else CROWD
    for queue in queues[:1] if quick else queues:
        for waiting in (1, crowd):
            measure = f"lateness of the {queue.delay.total_seconds():g} s step, {waiting:,} waiting"
            for contestant in bench.turns(measure, (STOCKHOOK,)):
                await bench.world.line.purge(bench.world.queues)
                bench.results.add(measure, "s", contestant.name, await latest(bench.world, queue, waiting))


async def latest(world: World, queue: RetryQueue, count: int) -> float:
    """The greatest of all times from the publish to the return, minus the delay, in seconds."""
    sent: dict[str, float] = {}
    late: list[float] = []
    back = asyncio.Event()

    async def receive(message: DeliveredMessage) -> None:
        waited = monotonic() - sent[message.header.properties.message_id or ""]
        late.append(waited - queue.delay.total_seconds())
        if len(late) == count:
            back.set()

    async with _channel(world) as receiving, _channel(world) as sending:
        await receiving.basic_consume(main_queue(FAMILY), receive, no_ack=True)
        left = iter(range(count))
        await asyncio.gather(*(_send(sending, queue.name, left, sent) for _ in range(TOGETHER)))
        async with asyncio.timeout(queue.delay.total_seconds() + PATIENCE_SECONDS):
            await back.wait()
    return max(late)


async def _send(channel: AbstractChannel, queue: str, left: Iterator[int], sent: dict[str, float]) -> None:
    """Publish as a consumer does after a failure."""
    for _ in left:
        message_id = uuid4().hex
        sent[message_id] = monotonic()
        properties = Basic.Properties(message_id=message_id, delivery_mode=2)
        await channel.basic_publish(
            BODY, exchange=RETURN, routing_key=queue, properties=properties, mandatory=True
        )


@asynccontextmanager
async def _channel(world: World) -> AsyncIterator[AbstractChannel]:
    connection = await aiormq.connect(world.services.amqp_url)
    try:
        yield await connection.channel()
    finally:
        await connection.close()
