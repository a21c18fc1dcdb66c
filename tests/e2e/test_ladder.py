"""Events that fail climb the ladder; their neighbours do not notice."""

import json
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from tests.support.events import body, numbered_id, part_changed
from tests.support.fault_sql import REMOVE_FAULT, fail_rows
from tests.support.stack import Stack, delays, until
from worker.amqp.topology import topology

# Its message quotes a customer, as Postgres's own messages do.
POISON = fail_rows({"parts": "NEW.part_id = 'poison'"}, message="poison: a part of customer@example.com")
POISON_BODY = body(part_changed("poison", number=1))


def failures(log: str) -> list[dict[str, Any]]:
    """The lines that say that a delivery failed."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "delivery.failed"]


@pytest.fixture
async def poisoned(stack: Stack) -> Any:
    await stack.execute(POISON)
    yield stack
    stack.close()
    await stack.execute(REMOVE_FAULT)
    # What still climbs the true ladder would come down in the middle of another test.
    usual = topology(delays(1, 2, 3)).queues
    for queue in topology(stack.settings.delays).queues:
        if queue not in usual:
            await stack.delete_queue(queue.name)


async def test_a_poison_event_climbs_to_the_dead_letters_and_its_neighbours_are_applied_once(
    poisoned: Stack,
) -> None:
    await poisoned.started("ingest")
    for number in range(30):
        part_id = "poison" if number == 15 else f"part-{number}"
        await poisoned.post_ovoko(body(part_changed(part_id, number=number)))
    # Started late, so that all of them are in one batch.
    consumer = await poisoned.started("consume", "inventory")

    async def is_dead() -> bool:
        return (await poisoned.depths()).get("stockhook.inventory.dead") == 1

    await until(is_dead, "the poison is dead", 30)
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


async def test_a_dead_letter_says_why(poisoned: Stack) -> None:
    await poisoned.started("run", STOCKHOOK_RETRY_DELAYS="1")
    await poisoned.post_ovoko(POISON_BODY)
    message = await until(lambda: poisoned.get("stockhook.inventory.dead"), "there is a dead letter", 20)

    assert message.body == POISON_BODY
    assert message.headers["x-attempt"] == 2
    assert str(message.headers["x-reason"]).startswith("exhausted: RaiseError [P0001] in consumers/")
    assert message.headers["x-event-id"] == numbered_id(1)
    assert "customer@example.com" not in repr(message.headers)


async def test_an_event_that_is_mended_in_time_is_applied_by_a_retry(poisoned: Stack) -> None:
    await poisoned.started("run")
    await poisoned.post_ovoko(POISON_BODY)

    async def waits() -> bool:
        return "stockhook.inventory.retry.1s" in await poisoned.depths()

    await until(waits, "it waits in the first step")
    await poisoned.execute(REMOVE_FAULT)
    await until(lambda: poisoned.count("parts"), "it is applied")

    assert await poisoned.count("event_log") == 1
    assert await poisoned.depths() == {}


async def climb(stack: Stack, steps: int, seconds: float) -> list[timedelta]:
    """The time from each failed attempt of a poison event to the next."""
    await stack.empty()
    consumer = await stack.started("run")
    await stack.post_ovoko(POISON_BODY)

    async def has_failed() -> bool:
        return len(failures(consumer.lines())) > steps

    await until(has_failed, f"{steps} steps are climbed", seconds)
    times = [datetime.fromisoformat(line["timestamp"]) for line in failures(consumer.lines())]
    return [after - before for before, after in pairwise(times)]


def check_lateness(waits: list[timedelta], delays: tuple[int, ...]) -> None:
    for wait, delay in zip(waits, delays, strict=True):
        lateness = wait.total_seconds() - delay
        print(f"step {delay} s: {lateness:.3f} s late")
        assert 0 <= lateness <= 0.5


async def test_the_true_first_step_takes_seven_seconds(poisoned: Stack) -> None:
    poisoned.environment["STOCKHOOK_RETRY_DELAYS"] = "7,35,175"

    check_lateness(await climb(poisoned, 1, 20), (7,))


@pytest.mark.ladder
async def test_the_true_ladder_by_the_clock(poisoned: Stack) -> None:
    poisoned.environment["STOCKHOOK_RETRY_DELAYS"] = "7,35,175"

    check_lateness(await climb(poisoned, 3, 240), (7, 35, 175))
