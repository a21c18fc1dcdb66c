"""FastStream with one transaction per event, tuned: no injection, and the handler decodes the body itself."""

from faststream.rabbit import Channel, RabbitBroker, RabbitQueue
from faststream.rabbit.annotations import RabbitMessage

from tests.bench.contestants.applying import Applying
from tests.bench.contestants.task import Task, run, stopped


async def as_it_came(message: RabbitMessage) -> RabbitMessage:
    return message


async def main() -> None:
    task = Task.read()
    applying = await Applying.connect(task.database_url, task.pool)
    broker = RabbitBroker(
        task.amqp_url,
        default_channel=Channel(prefetch_count=task.prefetch),
        decoder=as_it_came,
        apply_types=False,
        logger=None,
    )

    async def handle(message: RabbitMessage) -> None:
        await applying.apply(message.raw_message.type or "", message.headers, message.body)

    for name in task.queue_names:
        broker.subscriber(RabbitQueue(name, declare=False))(handle)
    await broker.start()
    await stopped()
    await broker.stop()


if __name__ == "__main__":
    run(main())
