"""Publishing on the real broker: what is confirmed is in a queue, what is nowhere is an error."""

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


async def test_what_no_queue_takes_is_an_error_and_what_one_takes_is_there(stack: Stack) -> None:
    """Both in flight at once: their results must not be swapped."""
    nowhere = [message(RETURN, "stockhook.nowhere", number) for number in range(20)]
    somewhere = [message(RETURN, "stockhook.orders.dead", number) for number in range(20)]
    async with stack.broker.connection() as link:
        channel = await link.channel()
        results = await asyncio.gather(
            *(channel.publish(one, 10) for pair in zip(nowhere, somewhere, strict=True) for one in pair),
            return_exceptions=True,
        )

    assert [type(result) for result in results] == [Unroutable, type(None)] * 20
    assert await stack.depths() == {"stockhook.orders.dead": 20}


async def test_what_no_family_takes_is_quarantined_by_the_broker_itself(stack: Stack) -> None:
    async with stack.broker.connection() as link:
        channel = await link.channel()
        await channel.publish(message(EVENTS, "ovoko.part.teleported"), 10)

    assert await stack.depths() == {"stockhook.quarantine": 1}


async def test_what_is_published_is_persistent(stack: Stack) -> None:
    """Quorum queues keep everything on disk; a classic queue in its place would not."""
    async with stack.broker.connection() as link:
        channel = await link.channel()
        await channel.publish(message(RETURN, "stockhook.orders.dead"), 10)
    connection = await aio_pika.connect(stack.environment["STOCKHOOK_AMQP_URL"])
    async with connection, connection.channel() as raw:
        found = await (await raw.get_queue("stockhook.orders.dead")).get(no_ack=True)

    assert found.delivery_mode == aio_pika.DeliveryMode.PERSISTENT


async def test_a_message_survives_a_restart_of_the_broker(stack: Stack, services: Services) -> None:
    assert services.rabbitmq is not None
    async with stack.broker.connection() as link:
        channel = await link.channel()
        await channel.publish(message(RETURN, "stockhook.orders.dead"), 10)
    services.rabbitmq.kill()
    await asyncio.to_thread(services.rabbitmq.start)
    # A quorum queue that has just started counts what it holds a moment later.
    found = await until(lambda: stack.get("stockhook.orders.dead"), "the message is there")

    assert found.headers["x-number"] == 0


async def test_a_publisher_that_gets_no_confirm_in_time_says_so_and_recovers(
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
            while publisher.is_ready:  # It notices that this connection is not to be trusted,
                await asyncio.sleep(0.02)
            await publisher.wait_ready()  # and makes another.
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

        # So a process ends: whatever is left is cancelled, and waited for.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for one in left:
            one.cancel()
        _, hangs = await asyncio.wait([task, *left], timeout=60)
        hanging |= hangs

    assert not hanging


async def _open_and_close(stack: Stack, is_open: asyncio.Event) -> None:
    async with Broker(stack.environment["STOCKHOOK_AMQP_URL"], "test").connection() as link:
        await link.channel()
        is_open.set()


async def _tick(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def test_missed_heartbeats_are_a_lost_connection_for_who_waits_and_no_cancellation(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client library cancels its reader then, and with it whatever waits for an answer."""
    monkeypatch.setattr("worker.amqp.connection.HEARTBEAT_SECONDS", 1)
    url = stack.environment["STOCKHOOK_AMQP_URL"]
    with FaultProxy.before(url) as proxy:
        async with Broker(proxy.via(url), "test").connection() as link:
            channel = await link.channel()
            proxy.shape(Way(Flow.HELD))

            with pytest.raises(BrokerUnavailable):
                await channel.depth("stockhook.orders")


async def test_a_connection_that_is_lost_says_nothing_about_the_leader_of_a_queue(stack: Stack) -> None:
    url = stack.environment["STOCKHOOK_AMQP_URL"]
    with FaultProxy.before(url) as proxy:
        async with Broker(proxy.via(url), "test").connection() as link:
            channel = await link.channel()
            assert await channel.answers("stockhook.orders", 20)
            proxy.shape(Way(Flow.HELD))
            question = asyncio.create_task(channel.answers("stockhook.orders", 20))
            await asyncio.sleep(0)
            proxy.reset()

            with pytest.raises(BrokerUnavailable):
                await question
