"""The time from the commit of a change until a subscriber receives it."""

from contextlib import AsyncExitStack
from time import time

import orjson

from tests.bench.lineup import INGEST, STOCKHOOK
from tests.bench.load import Prepared, play_at_rate
from tests.bench.measures.latency import COMMITTED, FAMILIES, QUICK_SECONDS, SECONDS, WARM_UP, add, with_ids
from tests.bench.plan import Bench
from tests.bench.settled import accounted, published
from tests.bench.world import OVOKO_SECRET, World, free_port
from worker.amqp.connection import Broker
from worker.amqp.tap import Delivery
from worker.amqp.topology import CHANGES

RATE = 300


async def feed(bench: Bench) -> None:
    seconds = QUICK_SECONDS if bench.options.is_quick else SECONDS
    requests = with_ids(bench.world, WARM_UP + RATE * seconds)
    measure = f"change feed at {RATE} events/s, from the commit"
    for contestant in bench.turns(measure, (STOCKHOOK,)):
        await bench.world.empty()
        add(bench, measure, contestant.name, await _published_after(bench.world, requests))


async def _published_after(world: World, requests: list[Prepared]) -> list[float]:
    """Seconds for each event with a change. Postgres runs on this machine, and uses the same clock.

    Raises:
        Failed: An event was answered 200 and is not applied.
    """
    arrived: dict[str, float] = {}

    def take(delivery: Delivery) -> None:
        arrived.setdefault(orjson.loads(delivery.body)["data"]["event_id"], time())

    port, log = free_port(), STOCKHOOK.log or ""
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(Broker(world.services.amqp_url, "bench").connection())
        channel = await connection.channel()
        # It acks nothing, so it needs room for all of them.
        await channel.subscribe_exclusive(CHANGES, ["stockhook.#"], "bench", take, prefetch=0)
        consumer = await stack.enter_async_context(world.running(STOCKHOOK, FAMILIES))
        await stack.enter_async_context(world.running(INGEST, port=port, secret=OVOKO_SECRET))
        await play_at_rate(port, requests[:WARM_UP], RATE)
        await accounted(world, log, WARM_UP, consumer)
        arrived.clear()
        await play_at_rate(port, requests[WARM_UP:], RATE)
        await accounted(world, log, len(requests), consumer)
        await published(world, consumer)
    committed = {str(row[0]): row[1] for row in await world.database.fetch(COMMITTED.format(table=log))}
    return [at - committed[event_id] for event_id, at in arrived.items()]
