"""Only aio-pika: publish prepared messages with confirms, a fixed number of them in flight."""

import asyncio
import pickle
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import aio_pika
from aio_pika.abc import AbstractExchange

from tests.bench.contestants.task import Task, run, stopped
from worker.amqp.topology import EVENTS

Prepared = tuple[str, dict[str, Any], bytes]


async def main() -> None:
    task = Task.read()
    prepared: list[Prepared] = pickle.loads(Path(task.messages).read_bytes())
    waiting = islice(cycle(prepared), task.count)
    async with await aio_pika.connect(task.amqp_url) as connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        exchange = await channel.get_exchange(EVENTS)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(task.prefetch):
                tasks.create_task(publish_all(exchange, waiting))
        await stopped()


async def publish_all(exchange: AbstractExchange, waiting: Iterator[Prepared]) -> None:
    for routing_key, headers, body in waiting:
        message = aio_pika.Message(
            body,
            headers=headers,
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            type=routing_key,
        )
        await exchange.publish(message, routing_key, mandatory=True)


if __name__ == "__main__":
    run(main())
