"""Publishing to the real broker: a confirmed message is in a queue, an unroutable one is an error."""

import asyncio

import aio_pika
import pytest

from deploy.local.services import Services
from tests.support.fault_proxy import FaultProxy, Flow, Way
from tests.support.stack import Stack, until
from worker.amqp.channel import Message
from worker.amqp.connection import Broker
from worker.amqp.errors import BrokerUnavailable, Unroutable
from worker.amqp.publisher import Publisher
from worker.amqp.topology import EVENTS, RETURN, topology


def message(exchange: str, routing_key: str, number: int = 0) -> Message:
    return Message(exchange, routing_key, "test", {"x-number": number}, b"{}")


async def test_an_unroutable_message_is_an_error_and_a_routed_one_is_in_its_queue(stack: Stack) -> None:
    """Both are in flight concurrently; their results must not be swapped."""
    nowhere = [message(RETURN, "stockhook.nowhere", number) for number in range(20)]
    somewhere = [message(RETURN, "stockhook.orders.dead", number) for number in range(20)]
    async with stack.broker.connection() as connection:
        channel = await connection.channel()
        results = await asyncio.gather(
            *(channel.publish(one, 10) for pair in zip(nowhere, somewhere, strict=True) for one in pair),
            return_exceptions=True,
        )

    assert [type(result) for result in results] == [Unroutable, type(None)] * 20
    assert await stack.depths() == {"stockhook.orders.dead": 20}


async def test_the_broker_quarantines_a_message_that_no_family_consumes(stack: Stack) -> None:
    async with stack.broker.connection() as connection:
        channel = await connection.channel()
        await channel.publish(message(EVENTS, "ovoko.part.teleported"), 10)

    assert await stack.depths() == {"stockhook.quarantine": 1}


async def test_published_messages_are_persistent(stack: Stack) -> None:
    """Quorum queues store all messages on disk; a classic queue would not."""
    async with stack.broker.connection() as broker_connection:
        channel = await broker_connection.channel()
        await channel.publish(message(RETURN, "stockhook.orders.dead"), 10)
    connection = await aio_pika.connect(stack.environment["STOCKHOOK_AMQP_URL"])
    async with connection, connection.channel() as raw:
        received = await (await raw.get_queue("stockhook.orders.dead")).get(no_ack=True)

    assert received.delivery_mode == aio_pika.DeliveryMode.PERSISTENT


async def test_a_message_survives_a_restart_of_the_broker(stack: Stack, services: Services) -> None:
    assert services.rabbitmq is not None
    async with stack.broker.connection() as connection:
        channel = await connection.channel()
        await channel.publish(message(RETURN, "stockhook.orders.dead"), 10)
    services.rabbitmq.kill()
    await asyncio.to_thread(services.rabbitmq.start)
    # A quorum queue counts its messages with a delay after a start.
    received = await until(lambda: stack.get("stockhook.orders.dead"), "the message is there")

    assert received.headers["x-number"] == 0


async def test_a_publisher_without_a_timely_confirm_reports_it_and_recovers(
    stack: Stack, services: Services
) -> None:
    assert services.rabbitmq is not None
    async with Publisher(stack.broker, topology(stack.settings.delays), 0.5) as publisher:
        await publisher.wait_ready()
        services.rabbitmq.pause()
        try:
            with pytest.raises(BrokerUnavailable):
                await publisher.publish(message(RETURN, "stockhook.orders.dead"))
        finally:
            services.rabbitmq.resume()
        async with asyncio.timeout(10):
            while publisher.is_ready:  # It detects that this connection cannot be trusted,
                await asyncio.sleep(0.02)
            await publisher.wait_ready()  # and opens another.
        await publisher.publish(message(RETURN, "stockhook.orders.dead"))


@pytest.mark.parametrize("ticks", [0, 1, 2, 3, 5, 8])
async def test_a_close_that_is_cancelled_ends(stack: Stack, ticks: int) -> None:
    hanging: set[asyncio.Task[None]] = set()
    for sooner in range(15):
        is_open = asyncio.Event()
        task = asyncio.create_task(_open_and_close(stack, is_open))
        await is_open.wait()
        await _tick(sooner)
        task.cancel()
        await _tick(ticks)

        # A process ends like this: remaining tasks are cancelled and awaited.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for one in left:
            one.cancel()
        _, hangs = await asyncio.wait([task, *left], timeout=60)
        hanging |= hangs

    assert not hanging


async def _open_and_close(stack: Stack, is_open: asyncio.Event) -> None:
    async with Broker(stack.environment["STOCKHOOK_AMQP_URL"], "test").connection() as connection:
        await connection.channel()
        is_open.set()


async def _tick(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def test_missed_heartbeats_are_a_lost_connection_for_the_waiting_caller_and_no_cancellation(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client library then cancels its reader, and all tasks that wait for an answer."""
    monkeypatch.setattr("worker.amqp.connection.HEARTBEAT_SECONDS", 1)
    url = stack.environment["STOCKHOOK_AMQP_URL"]
    with FaultProxy.before(url) as proxy:
        async with Broker(proxy.via(url), "test").connection() as connection:
            channel = await connection.channel()
            proxy.shape(Way(Flow.HELD))

            with pytest.raises(BrokerUnavailable):
                await channel.depth("stockhook.orders")


async def test_a_lost_connection_is_not_reported_as_a_missing_leader(stack: Stack) -> None:
    url = stack.environment["STOCKHOOK_AMQP_URL"]
    with FaultProxy.before(url) as proxy:
        async with Broker(proxy.via(url), "test").connection() as connection:
            channel = await connection.channel()
            assert await channel.answers("stockhook.orders", 20)
            proxy.shape(Way(Flow.HELD))
            question = asyncio.create_task(channel.answers("stockhook.orders", 20))
            await asyncio.sleep(0)
            proxy.reset()

            with pytest.raises(BrokerUnavailable):
                await question
