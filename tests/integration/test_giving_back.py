"""In lasting trouble a family gives back what it holds, and its deliveries count for nothing."""

import asyncio

import pytest

from consumers.registry import FAMILIES
from deploy.local.services import Services
from tests.support.events import body, return_updated
from tests.support.stack import Stack, until
from worker.amqp.publisher import Publisher
from worker.amqp.topology import topology
from worker.pipeline.batch import requeue_copy
from worker.pipeline.consumer import Consumer
from worker.postgres.pool import Database


async def test_what_is_held_for_too_long_goes_back_as_if_it_had_just_arrived(
    stack: Stack, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert services.postgres is not None
    monkeypatch.setattr("worker.pipeline.consumer.LONGEST_HOLD_SECONDS", 1.0)
    await stack.started("ingest")
    stopping = asyncio.Event()
    database = Database(stack.environment["STOCKHOOK_DATABASE_URL"], 2, "test")
    async with Publisher(stack.broker, topology(stack.settings.delays), 10) as publisher:
        consumer = Consumer(
            FAMILIES["returns"], stack.settings, stack.broker, database, publisher, stopping, asyncio.Lock()
        )
        running = asyncio.create_task(consumer.run())

        async def subscribed() -> bool:
            return await consumer.check() is None

        async def given_back() -> bool:
            return (await stack.depths()).get("stockhook.returns") == 5

        await until(subscribed, "it is subscribed")
        services.postgres.kill()
        try:
            for number in range(5):
                await stack.post_ovoko(body(return_updated(number, number % 5)))
            await until(given_back, "all are back in the queue")
            found = await stack.get("stockhook.returns")
            assert found is not None
            await publisher.publish(requeue_copy("returns", found))
        finally:
            await asyncio.to_thread(services.postgres.start)

        async def applied() -> bool:
            return await stack.count("event_log") == 5

        await until(applied, "they are applied")
        stopping.set()
        await running
    await database.close()

    assert not found.redelivered
    assert found.headers.get("x-delivery-count", 0) == 0
    assert found.headers["x-attempt"] == 1
