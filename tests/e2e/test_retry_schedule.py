"""Events that fail are retried, then dead letters; other events are applied meanwhile."""

import json
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from tests.support.events import numbered_id, sold
from tests.support.fault_sql import REMOVE_FAULT, fail_rows
from tests.support.stack import Stack, delays, until
from worker.amqp.topology import topology

# Its message quotes customer data, as messages of Postgres do.
POISON = fail_rows({"parts": "NEW.part_id = 'poison'"}, message="poison: a part of customer@example.com")
POISON_BODY = sold("poison", 1)


def failures(log: str) -> list[dict[str, Any]]:
    """Log lines about failed deliveries."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "delivery.failed"]


@pytest.fixture
async def poisoned(stack: Stack) -> Any:
    await stack.execute(POISON)
    yield stack
    stack.close()
    await stack.execute(REMOVE_FAULT)
    # Messages in a real retry queue would return during another test.
    usual = topology(delays(1, 2, 3)).queues
    for queue in topology(stack.settings.delays).queues:
        if queue not in usual:
            await stack.delete_queue(queue.name)


async def test_a_poison_message_becomes_a_dead_letter_and_its_neighbours_are_applied_once(
    poisoned: Stack,
) -> None:
    await poisoned.started("ingest")
    for number in range(30):
        part_id = "poison" if number == 15 else f"part-{number}"
        await poisoned.post_ovoko(sold(part_id, number))
    # Started late, so that all are in one batch.
    consumer = await poisoned.started("consume", "inventory")

    async def is_dead() -> bool:
        return (await poisoned.depths()).get("stockhook.inventory.dead") == 1

    await until(is_dead, "the poison message is a dead letter", 30)
    failed = failures(consumer.lines())

    assert await poisoned.depths() == {"stockhook.inventory.dead": 1}
    assert await poisoned.count("parts") == await poisoned.count("event_log") == 29
    assert [line["to"] for line in failed] == [
        "stockhook.inventory.retry.1s",
        "stockhook.inventory.retry.2s",
        "stockhook.inventory.retry.3s",
        "stockhook.inventory.dead",
    ]
    assert [line["attempt"] for line in failed] == [1, 2, 3, 4]
    assert {line["event_id"] for line in failed} == {numbered_id(15)}
    assert "customer@example.com" not in consumer.lines()
    assert "RaiseError [P0001]" in failed[0]["reason"]


async def test_a_dead_letter_names_its_reason(poisoned: Stack) -> None:
    await poisoned.started_apart(STOCKHOOK_RETRY_DELAYS="1")
    await poisoned.post_ovoko(POISON_BODY)
    message = await until(lambda: poisoned.get("stockhook.inventory.dead"), "there is a dead letter", 20)

    assert message.body == POISON_BODY
    assert message.headers["x-attempt"] == 2
    assert str(message.headers["x-reason"]).startswith("exhausted: RaiseError [P0001] in consumers/")
    assert message.headers["x-event-id"] == numbered_id(1)
    assert "customer@example.com" not in repr(message.headers)


async def test_an_event_whose_cause_of_failure_ends_is_applied_by_a_retry(poisoned: Stack) -> None:
    await poisoned.started_apart()
    await poisoned.post_ovoko(POISON_BODY)

    async def waits() -> bool:
        return "stockhook.inventory.retry.1s" in await poisoned.depths()

    await until(waits, "the event waits in the first retry queue")
    await poisoned.execute(REMOVE_FAULT)
    await until(lambda: poisoned.count("parts"), "the event is applied")

    assert await poisoned.count("event_log") == 1
    assert await poisoned.depths() == {}


async def waits_between_attempts(stack: Stack, retries: int, seconds: float) -> list[timedelta]:
    """The time from each failed attempt of a poison message to the next."""
    await stack.empty()
    await stack.execute(POISON)
    consumer = await stack.started("run")
    await stack.post_ovoko(POISON_BODY)

    async def has_failed() -> bool:
        return len(failures(consumer.lines())) > retries

    await until(has_failed, f"{retries} retries failed", seconds)
    times = [datetime.fromisoformat(line["timestamp"]) for line in failures(consumer.lines())]
    return [after - before for before, after in pairwise(times)]


def check_no_retry_is_early(waits: list[timedelta], delays: tuple[int, ...]) -> None:
    for wait, delay in zip(waits, delays, strict=True):
        print(f"{delay} s: {wait.total_seconds() - delay:.3f} s late")
        assert wait.total_seconds() >= delay


async def test_the_first_retry_comes_after_seven_seconds(poisoned: Stack) -> None:
    poisoned.environment["STOCKHOOK_RETRY_DELAYS"] = "7,35,175"

    check_no_retry_is_early(await waits_between_attempts(poisoned, 1, 60), (7,))


@pytest.mark.retry_delays
async def test_each_retry_comes_after_its_delay(poisoned: Stack) -> None:
    poisoned.environment["STOCKHOOK_RETRY_DELAYS"] = "7,35,175"

    check_no_retry_is_early(await waits_between_attempts(poisoned, 3, 600), (7, 35, 175))
