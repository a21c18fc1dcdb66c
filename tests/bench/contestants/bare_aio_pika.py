"""Only aio-pika: receive and ack each message."""

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from tests.bench.contestants.task import Task, run, stopped


async def main() -> None:
    task = Task.read()
    async with await aio_pika.connect(task.amqp_url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=task.prefetch)
        for name in task.queue_names:
            queue = await channel.get_queue(name)
            await queue.consume(receive)
        await stopped()


async def receive(message: AbstractIncomingMessage) -> None:
    await message.ack()


if __name__ == "__main__":
    run(main())
