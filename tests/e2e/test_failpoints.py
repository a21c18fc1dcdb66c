"""A process dies once at each failpoint: no event is lost, and none is applied twice."""

import asyncio

import httpx
import pytest

from deploy.local.services import Services
from tests.support.events import body, return_updated
from tests.support.fault_sql import REMOVE_FAULT, fail_rows
from tests.support.stack import Stack, Worker, http_client, until
from worker.observability.failpoints import POINTS

EVENTS = 12
CONSUMER_POINTS = ("received", "claimed", "saved", "committed", "flushed", "acked", "retry_published")
INGEST_POINTS = ("accepted", "published")
SPOOL_POINTS = ("spooled", "drained")
# In test_dead_letters.py, test_dead_commands.py and test_bulk_jobs.py.
DEAD_LETTER_POINTS = ("dead_letter_stored", "replay_started", "replay_published", "letters_discarded")
# In test_changes.py, test_webhooks.py.
CHANGE_POINTS = ("change_taken", "change_published", "change_delivered")
# In test_actions.py.
ACTION_POINTS = ("action_published", "action_started", "action_performed", "action_settled")
# In test_unhandled.py.
UNHANDLED_POINTS = ("unhandled_published",)


def test_every_failpoint_has_a_test() -> None:
    assert {
        *CONSUMER_POINTS,
        *INGEST_POINTS,
        *SPOOL_POINTS,
        *DEAD_LETTER_POINTS,
        *CHANGE_POINTS,
        *ACTION_POINTS,
        *UNHANDLED_POINTS,
    } == set(POINTS)


async def has_died(worker: Worker) -> bool:
    return worker.process.poll() is not None


async def check_each_was_applied_once(stack: Stack) -> None:
    async def all_applied() -> bool:
        return await stack.count("returns") == EVENTS and not await stack.depths()

    await until(all_applied, "all events are applied", 30)
    rows = await stack.fetch("SELECT return_id, update_count FROM returns")
    check = stack.run("audit", "--json")

    assert {row["return_id"]: row["update_count"] for row in rows} == dict.fromkeys(
        map(str, range(EVENTS)), 1
    )
    assert await stack.count("event_log") == EVENTS
    assert check.returncode == 0, check.stdout


@pytest.mark.parametrize("point", CONSUMER_POINTS)
async def test_a_consumer_dies_at(stack: Stack, point: str) -> None:
    if point == "retry_published":
        await stack.execute(fail_rows({"returns": "NEW.return_id = '3'"}))
    await stack.started("ingest")
    for number in range(EVENTS):
        await stack.post_ovoko(body(return_updated(number)))
    # Some batches end before the one with the failpoint.
    dying = stack.start("consume", "returns", STOCKHOOK_CRASH_AT=f"{point}:1", STOCKHOOK_BATCH_SIZE="5")
    await until(lambda: has_died(dying), f"the consumer dies at {point}")
    await stack.execute(REMOVE_FAULT)
    await stack.started("consume", "returns")

    assert dying.process.returncode == -9
    await check_each_was_applied_once(stack)


async def send_all(stack: Stack) -> None:
    """Send each event until it is answered 2xx, as a marketplace does."""
    async with http_client(5) as client:
        secret = stack.settings.ovoko_secrets[0].get_secret_value()
        for number in range(EVENTS):

            async def is_accepted(number: int = number) -> bool:
                try:
                    answer = await client.post(
                        f"{stack.url}/webhooks/ovoko",
                        content=body(return_updated(number)),
                        headers={"X-Webhook-Secret": secret},
                    )
                except httpx.TransportError:
                    return False
                return answer.status_code == 200

            await until(is_accepted, f"event {number} is accepted", 30)


async def restart_when_dead(stack: Stack, dying: Worker) -> Worker:
    await until(lambda: has_died(dying), "the ingest dies", 30)
    return await stack.started("ingest")


@pytest.mark.parametrize("point", INGEST_POINTS)
async def test_an_ingest_dies_at(stack: Stack, point: str) -> None:
    await stack.started("consume", "returns")
    dying = await stack.started("ingest", STOCKHOOK_CRASH_AT=f"{point}:4")
    await asyncio.gather(send_all(stack), restart_when_dead(stack, dying))

    await check_each_was_applied_once(stack)


@pytest.mark.parametrize("point", SPOOL_POINTS)
async def test_an_ingest_with_a_spool_dies_at(stack: Stack, services: Services, point: str) -> None:
    node = services.rabbitmq
    assert node is not None
    dying = await stack.started("ingest", STOCKHOOK_CRASH_AT=f"{point}:1")
    node.kill()
    try:
        if point == "spooled":
            await asyncio.gather(send_all(stack), restart_when_dead(stack, dying))
        else:
            await send_all(stack)
    finally:
        await asyncio.to_thread(node.start)
    if point == "drained":
        await restart_when_dead(stack, dying)
    await stack.started("consume", "returns")

    await check_each_was_applied_once(stack)
