"""A hand-written handler on aio-pika: one transaction per event, then its ack."""

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from tests.bench.contestants.applying import Applying
from tests.bench.contestants.task import Task, run, stopped


async def main() -> None:
    task = Task.read()
    applying = await Applying.connect(task.database_url, task.pool)

    async def handle(message: AbstractIncomingMessage) -> None:
        await applying.apply(message.type or "", message.headers, message.body)
        await message.ack()

    async with await aio_pika.connect(task.amqp_url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=task.prefetch)
        for name in task.queue_names:
            queue = await channel.get_queue(name)
            await queue.consume(handle)
        await stopped()


if __name__ == "__main__":
    run(main())
