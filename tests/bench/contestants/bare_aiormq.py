"""Only aiormq: receive, and ack all received messages with `multiple`."""

import asyncio

import aiormq
from aiormq.abc import DeliveredMessage

from tests.bench.contestants.task import Task, run, stopped


async def main() -> None:
    task = Task.read()
    connection = await aiormq.connect(task.amqp_url)
    channel = await connection.channel()
    await channel.basic_qos(prefetch_count=task.prefetch)
    arrived = asyncio.Event()
    latest = 0

    async def receive(message: DeliveredMessage) -> None:
        nonlocal latest
        latest = message.delivery_tag or 0
        arrived.set()

    async def acknowledge() -> None:
        while True:
            await arrived.wait()
            arrived.clear()
            await channel.basic_ack(latest, multiple=True, wait=False)

    for name in task.queue_names:
        await channel.basic_consume(name, receive)
    acknowledging = asyncio.create_task(acknowledge())
    await stopped()
    acknowledging.cancel()
    await connection.close()


if __name__ == "__main__":
    run(main())
