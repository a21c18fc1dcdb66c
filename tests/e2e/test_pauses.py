"""A family that a user paused: no consumer holds an event of it, none is lost, and no attempt is spent."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count

import pytest

from deploy.local.services import Services
from tests.support.events import body, order_created, return_updated
from tests.support.fault_sql import REMOVE_FAULT, delay_writes, fail_writes
from tests.support.stack import Stack, Worker, http_client, until
from worker.amqp.subscription import requeue_copy
from worker.amqp.tap import Delivery

QUEUE = "stockhook.returns"
REASON = "a test repairs the table"
ROUNDS = 3

ATTEMPTS = "SELECT DISTINCT attempt FROM event_log"
OF_RETURNS = "SELECT count(*) AS events FROM event_log WHERE family = 'returns'"


async def pause(stack: Stack) -> None:
    paused = await asyncio.to_thread(stack.run, "pause", "returns", "--reason", REASON)
    assert paused.returncode == 0, paused.stderr


async def resume(stack: Stack) -> None:
    resumed = await asyncio.to_thread(stack.run, "resume", "returns")
    assert resumed.returncode == 0, resumed.stderr


async def until_nothing_is_held(stack: Stack, *consumers: Worker) -> None:
    """No consumer on the queue, and no delivery in flight in these processes."""

    async def is_left_alone() -> bool:
        for consumer in consumers:
            metrics = (await stack.ops(consumer.ops_port, "/metrics")).text
            if 'stockhook_in_flight{family="returns"} 0.0' not in metrics:
                return False
        async with stack.broker.connection() as connection:
            depth = await connection.depth(QUEUE)
        return depth is not None and depth.consumers == 0

    await until(is_left_alone, "nothing consumes the queue, and nothing of it is held")


async def waiting(stack: Stack) -> list[Delivery]:
    """The messages that are in the queue now; they are put back."""
    async with stack.broker.connection() as connection:
        channel = await connection.channel()
        depth = await channel.depth(QUEUE)
        assert depth is not None
        deliveries = [delivery for _ in range(depth.ready) if (delivery := await channel.get(QUEUE))]
        for delivery in deliveries:
            await channel.publish(requeue_copy(delivery), 5)
    return deliveries


async def until_applied(stack: Stack, number: int, seconds: float = 30) -> None:
    async def are_applied() -> bool:
        return await stack.count("event_log") == number

    await until(are_applied, f"{number} events are applied", seconds)


async def until_check(stack: Stack, worker: Worker, begin: str) -> None:
    async def says_so() -> bool:
        answer = await stack.ops(worker.ops_port, "/readyz")
        return bool(answer.json()["checks"]["returns"].startswith(begin))

    await until(says_so, f"/readyz says of the family: {begin}")


def check_account(stack: Stack) -> None:
    """Nothing is missing, and nothing was applied twice."""
    check = json.loads(stack.run("audit", "--json").stdout)
    assert check["missing"] == {}
    assert {account["duplicates"] for account in check["accounts"]} == {0}


@asynccontextmanager
async def load(stack: Stack) -> AsyncIterator[Callable[[], int]]:
    """Events of returns and orders while it lasts; the function that it yields says how many were sent."""
    numbers = count()
    stopping = asyncio.Event()

    async def send() -> None:
        headers = {"X-Webhook-Secret": stack.settings.ovoko_secrets[0].get_secret_value()}
        async with http_client(20) as client:
            while not stopping.is_set():
                number = next(numbers)
                event = return_updated(number, number % 50) if number % 2 else order_created(number, number)
                await asyncio.sleep(0.005)
                answer = await client.post(
                    f"{stack.url}/webhooks/ovoko", content=body(event), headers=headers
                )
                assert answer.status_code == 200

    senders = [asyncio.create_task(send()) for _ in range(2)]
    try:
        yield lambda: next(numbers)
    finally:
        stopping.set()
        await asyncio.gather(*senders)


def grows(counted: Callable[[], Awaitable[int]], before: int) -> Callable[[], Awaitable[bool]]:
    async def has_grown() -> bool:
        return await counted() > before

    return has_grown


async def test_a_pause_under_load_stops_one_family_in_all_processes_and_costs_nothing(stack: Stack) -> None:
    await stack.started("ingest")
    consumers = [await stack.started("consume", "returns", "orders") for _ in range(2)]

    async def returns() -> int:
        return int((await stack.fetch(OF_RETURNS))[0]["events"])

    async def orders() -> int:
        return await stack.count("orders")

    deliveries: list[Delivery] = []
    async with load(stack) as sent:
        for _ in range(ROUNDS):
            await until(grows(returns, await returns()), "returns are applied")
            await pause(stack)
            await until_nothing_is_held(stack, *consumers)
            applied = await returns()
            await until(grows(orders, await orders() + 50), "the other family goes on")
            assert await returns() == applied
            deliveries += await waiting(stack)
            await resume(stack)
    total = sent()
    await until_applied(stack, total)

    assert deliveries
    assert {delivery.headers.get("x-attempt", 1) for delivery in deliveries} == {1}
    assert [row["attempt"] for row in await stack.fetch(ATTEMPTS)] == [1]
    assert await stack.depths() == {}
    check_account(stack)
    audit = await stack.fetch("SELECT action, subject, reason FROM operator_audit ORDER BY audit_id")
    paused, resumed = ("family.paused", "returns", REASON), ("family.resumed", "returns", None)
    assert [tuple(row.values()) for row in audit] == [paused, resumed] * ROUNDS


async def test_a_pause_outlives_the_consumers_and_an_outage_of_postgres(
    stack: Stack, services: Services
) -> None:
    node = services.postgres
    assert node is not None
    await stack.started("ingest")
    await pause(stack)
    for number in range(5):
        await stack.post_ovoko(body(return_updated(number)))
    await stack.post_ovoko(body(order_created(1)))
    consumer = await stack.started("consume", "returns", "orders")
    await until_applied(stack, 1)
    readiness = await stack.ops(consumer.ops_port, "/readyz")
    node.kill()
    try:
        await until_out_of_reach(consumer)
        await stack.post_ovoko(body(return_updated(5)))
        during = await stack.ops(consumer.ops_port, "/readyz")
        depths = await stack.depths()
    finally:
        await asyncio.to_thread(node.start)
    await stack.post_ovoko(body(order_created(2)))
    await until_applied(stack, 2)
    after = await stack.depths()
    assert consumer.stop() == 0
    await stack.started("consume", "returns", "orders")
    await stack.post_ovoko(body(order_created(3)))
    await until_applied(stack, 3)
    after_restart = await stack.depths()
    await resume(stack)
    await until_applied(stack, 3 + 6)

    assert readiness.status_code == 200
    said = readiness.json()["checks"]["returns"]
    assert said.startswith("paused by ")
    assert said.endswith(f" UTC: {REASON}")
    assert during.json()["checks"]["returns"] == said
    assert depths == after == after_restart == {QUEUE: 6}
    check_account(stack)


async def until_out_of_reach(consumer: Worker) -> None:
    async def is_said() -> bool:
        return "pauses.unreadable" in consumer.lines()

    await until(is_said, "it cannot read the pauses")


async def test_a_family_in_the_circuit_breakers_pause_obeys(stack: Stack) -> None:
    await stack.execute(fail_writes("returns"))
    await stack.started("ingest")
    consumer = await stack.started("consume", "returns")
    for number in range(15):
        await stack.post_ovoko(body(return_updated(number)))
    await until_check(stack, consumer, "everything fails")
    await pause(stack)
    await until_nothing_is_held(stack, consumer)
    failures = consumer.lines().count('"delivery.failed"')

    async def no_retry_waits() -> bool:
        return not [queue for queue in await stack.depths() if ".retry." in queue]

    await until(no_retry_waits, "the retry delays are over")
    tried_meanwhile = consumer.lines().count('"delivery.failed"') - failures
    await stack.execute(REMOVE_FAULT)
    await resume(stack)

    async def are_settled() -> bool:
        dead = (await stack.depths()).get(f"{QUEUE}.dead", 0)
        return await stack.count("event_log") + dead == 15

    await until(are_settled, "every event is applied or dead", 60)
    assert tried_meanwhile == 0


@pytest.mark.parametrize("fault", ["outage", "slow"])
async def test_a_family_that_waits_for_the_database_obeys_and_spends_no_attempt(
    stack: Stack, fault: str
) -> None:
    """In the outage its table takes no write; a write that takes long is cancelled."""
    outage = fail_writes("returns", sqlstate="53100")
    await stack.execute(outage if fault == "outage" else delay_writes("returns", seconds=6))
    await stack.started("ingest")
    consumer = await stack.started("consume", "returns")
    for number in range(15):
        await stack.post_ovoko(body(return_updated(number)))
    if fault == "outage":
        await until_check(stack, consumer, "waiting for the database")
    else:
        await until(lambda: is_slow(stack), "an event is being applied")
    await pause(stack)
    await until_nothing_is_held(stack, consumer)
    deliveries = await waiting(stack)
    await stack.execute(REMOVE_FAULT)
    await resume(stack)
    await until_applied(stack, 15)

    assert len(deliveries) == 15
    assert {delivery.headers.get("x-delivery-count", 0) for delivery in deliveries} == {0}
    assert {delivery.headers.get("x-attempt", 1) for delivery in deliveries} == {1}
    assert [row["attempt"] for row in await stack.fetch(ATTEMPTS)] == [1]
    check_account(stack)


async def is_slow(stack: Stack) -> bool:
    return bool(await stack.fetch("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))


async def test_a_consumer_that_is_killed_while_it_obeys_loses_nothing(stack: Stack) -> None:
    await stack.started("ingest")
    async with load(stack) as sent:
        for _ in range(ROUNDS):
            consumer = await stack.started("consume", "returns", "orders")
            before = await stack.count("event_log")

            async def works(before: int = before) -> bool:
                return await stack.count("event_log") > before

            await until(works, "it applies events")
            await stack.execute(
                "INSERT INTO paused_families (family, reason, paused_by) VALUES ('returns', 'test', 'test')"
            )

            async def obeys(consumer: Worker = consumer) -> bool:
                return '"family.paused"' in consumer.lines()

            await until(obeys, "it begins to obey", 20)
            consumer.kill()
            await until_nothing_is_held(stack)
            await stack.execute("DELETE FROM paused_families")
    total = sent()
    await stack.started("consume", "returns", "orders")
    await until_applied(stack, total)

    assert json.loads(stack.run("audit", "--json").stdout)["missing"] == {}
    assert [row["attempt"] for row in await stack.fetch(ATTEMPTS)] == [1]
