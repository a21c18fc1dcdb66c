"""Outages of the broker and of Postgres: no event is lost, no attempt is spent, and work resumes."""

import asyncio
import json
from statistics import median
from time import perf_counter

import asyncpg
import pytest

from deploy.local.services import Services
from tests.support.events import body, return_updated
from tests.support.stack import OVOKO_SECRET, Stack, http_client, until

# Of the gateways, EventBridge waits the shortest time for an answer.
EVENTBRIDGE_SECONDS = 5


async def applied(stack: Stack, number: int) -> bool:
    try:
        return await stack.count("event_log") == number
    except OSError:
        return False


async def check_each_was_applied_once(stack: Stack, number: int) -> None:
    rows = await stack.fetch("SELECT sum(update_count) AS updates FROM returns")

    assert rows[0]["updates"] == number
    assert await stack.depths() == {}
    check = stack.run("audit", "--json")
    assert check.returncode == 0, check.stdout
    assert sum(account["applied"] for account in json.loads(check.stdout)["accounts"]) == number


async def answered(stack: Stack, content: bytes) -> int:
    """The status of a webhook whose sender waits no longer than EventBridge. Raises: TimeoutError."""
    async with asyncio.timeout(EVENTBRIDGE_SECONDS), http_client() as client:
        headers = {"X-Webhook-Secret": OVOKO_SECRET}
        answer = await client.post(f"{stack.url}/webhooks/ovoko", content=content, headers=headers)
        return answer.status_code


@pytest.mark.parametrize("way", ["kill", "pause", "alarm"])
async def test_while_the_broker_is_away_events_are_accepted_and_spooled(
    stack: Stack, services: Services, way: str
) -> None:
    node = services.rabbitmq
    assert node is not None
    await stack.started_apart()
    await stack.post_ovoko(body(return_updated(0)))
    seconds: list[float] = []
    match way:
        case "kill":
            node.kill()
        case "pause":
            node.pause()
        case _:
            node.ctl("set_vm_memory_high_watermark", "0")
    try:
        for number in range(1, 40):
            began = perf_counter()
            assert await answered(stack, body(return_updated(number, number % 5))) == 200
            seconds.append(perf_counter() - began)
        ready = (await stack.look("/readyz")).json()
    finally:
        match way:
            case "kill":
                await asyncio.to_thread(node.start)
            case "pause":
                node.resume()
            case _:
                node.ctl("set_vm_memory_high_watermark", "0.4")
    await until(lambda: applied(stack, 40), "all events are applied", 30)

    print(f"\n{way}: answers after {median(seconds):.3f} s in the median, {max(seconds):.3f} s at most")
    assert ready["status"] == "ready"
    assert ready["spool"]["events"] >= 30
    await check_each_was_applied_once(stack, 40)


@pytest.mark.parametrize("way", ["kill", "pause"])
async def test_an_outage_of_postgres_longer_than_the_retry_schedule_costs_no_attempt(
    stack: Stack, services: Services, way: str
) -> None:
    """The retry schedule of this stack is 1 + 2 + 3 seconds long."""
    node = services.postgres
    assert node is not None
    worker = await stack.started("run")
    await stack.post_ovoko(body(return_updated(0)))
    await until(lambda: applied(stack, 1), "the first event is applied")
    node.kill() if way == "kill" else node.pause()
    try:
        for number in range(1, 30):
            assert (await stack.post_ovoko(body(return_updated(number, number % 5)))).status_code == 200
        await until_paused(stack, worker.ops_port)
        await asyncio.sleep(8)
        depths = await stack.depths()
    finally:
        await asyncio.to_thread(node.start) if way == "kill" else node.resume()
    await until(lambda: applied(stack, 30), "all events are applied", 30)

    assert not [queue for queue in depths if "retry" in queue or "dead" in queue]
    assert "delivery.failed" not in worker.lines()
    await check_each_was_applied_once(stack, 30)


async def until_paused(stack: Stack, ops_port: int) -> None:
    async def is_paused() -> bool:
        answer = await stack.ops(ops_port, "/readyz")
        return answer.json()["checks"]["returns"] == "waiting for the database"

    await until(is_paused, "/readyz says that it waits for the database", 30)


async def test_a_spool_outlives_its_ingest(stack: Stack, services: Services) -> None:
    node = services.rabbitmq
    assert node is not None
    ingest = await stack.started("ingest")
    node.kill()
    try:
        for number in range(20):
            assert (await stack.post_ovoko(body(return_updated(number, number % 5)))).status_code == 200
        ingest.kill()
    finally:
        await asyncio.to_thread(node.start)
    await stack.started_apart()
    await until(lambda: applied(stack, 20), "all events are applied", 30)

    await check_each_was_applied_once(stack, 20)


async def test_a_deleted_queue_is_declared_and_consumed_again(stack: Stack) -> None:
    await stack.started_apart()
    await stack.delete_queue("stockhook.returns")

    async def is_there() -> bool:
        async with stack.broker.connection() as link:
            depth = await link.depth("stockhook.returns")
        return depth is not None and depth.consumers == 1

    await until(is_there, "the queue is consumed again")
    await stack.post_ovoko(body(return_updated(0)))
    await until(lambda: applied(stack, 1), "the event is applied")


async def test_a_table_that_is_locked_for_long_ends_no_process(stack: Stack) -> None:
    """The table that records where the copies of failed events went, after they were published."""
    worker = await stack.started("run")
    other = await asyncpg.connect(stack.environment["STOCKHOOK_DATABASE_URL"])
    async with other.transaction():
        await other.execute("LOCK TABLE event_sequences IN SHARE MODE")
        invalid = body(return_updated(0)).replace(b'"return_id"', b'"other_id"')
        assert (await stack.post_ovoko(invalid)).status_code == 200
        await until_paused(stack, worker.ops_port)
    await other.close()
    await stack.ready(worker)
    await until(lambda: settled(stack), "the dead letter is recorded")

    assert await stack.depths() == {"stockhook.returns.dead": 1}


async def settled(stack: Stack) -> bool:
    rows = await stack.fetch("SELECT count(*) AS rows FROM event_sequences WHERE NOT isempty(dead)")
    return bool(rows[0]["rows"] == 1)
