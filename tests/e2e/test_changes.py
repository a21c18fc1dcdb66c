"""A subscriber receives the complete change feed, in order per entity, even if processes die."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

from tests.support.events import body, part_changed
from tests.support.stack import Stack, Worker, until
from worker.amqp.tap import Delivery
from worker.amqp.topology import CHANGES
from worker.observability.failpoints import POINTS

STATUSES = ("in_warehouse", "reserved", "sold", "returned")


def status_change(number: int, part_id: str, status: str) -> bytes:
    return body(part_changed(part_id, status, number, number))


def lives(parts: int, steps: int) -> list[bytes]:
    """Status changes of `parts` parts, in the order of their instants."""
    return [
        status_change(step * parts + part, f"p{part}", STATUSES[step % len(STATUSES)])
        for step in range(steps)
        for part in range(parts)
    ]


class Subscriber:
    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []

    def take(self, delivery: Delivery) -> None:
        self.got.append(json.loads(delivery.body))

    @property
    def distinct(self) -> list[dict[str, Any]]:
        """The first copy of each change, by its id."""
        return list({change["id"]: change for change in reversed(self.got)}.values())[::-1]

    def check_order(self) -> None:
        """Check that each change starts with the state after the previous one of the entity."""
        last: dict[str, Any] = {}
        sequences: dict[str, str] = {}
        for change in sorted(self.distinct, key=self.first_seen):
            subject, data = change["subject"], change["data"]
            assert data["before"] == last.get(subject)
            assert change["sequence"] > sequences.get(subject, "")
            last[subject], sequences[subject] = data["after"], change["sequence"]

    def first_seen(self, change: dict[str, Any]) -> int:
        return next(place for place, seen in enumerate(self.got) if seen["id"] == change["id"])


@asynccontextmanager
async def subscribed(stack: Stack, keys: Sequence[str] = ("stockhook.#",)) -> AsyncIterator[Subscriber]:
    subscriber = Subscriber()
    async with stack.broker.connection() as connection:
        channel = await connection.channel()
        await channel.subscribe_exclusive(CHANGES, keys, "test", subscriber.take)
        yield subscriber


async def post_all(stack: Stack, bodies: Sequence[bytes]) -> None:
    # One change of a part of `lives` at a time: an overtaken change would not be published.
    for begin in range(0, len(bodies), 3):
        answers = await asyncio.gather(*map(stack.post_ovoko, bodies[begin : begin + 3]))
        assert {answer.status_code for answer in answers} == {200}


async def has_received(stack: Stack, subscriber: Subscriber, changes: int) -> bool:
    return len(subscriber.distinct) >= changes and await stack.count("changes") == 0


async def has_died(worker: Worker) -> bool:
    return worker.process.poll() is not None


async def test_each_change_is_published_once_and_in_order(stack: Stack) -> None:
    await stack.started_apart()
    bodies = lives(parts=5, steps=8)
    async with subscribed(stack) as subscriber:
        await post_all(stack, bodies)
        await until(lambda: has_received(stack, subscriber, len(bodies)), "all changes are received")
        # Repeated events change nothing, and nothing is published.
        await post_all(stack, bodies)
        await until(lambda: _are_duplicates(stack, len(bodies)), "they came again")

    assert len(subscriber.got) == len(bodies)
    subscriber.check_order()
    types = {change["type"] for change in subscriber.got}
    assert types == {f"stockhook.part.{status}" for status in STATUSES}


async def test_the_audit_accounts_for_each_change(stack: Stack) -> None:
    await stack.started("ingest")
    consumer = await stack.started("consume", "inventory")
    bodies = lives(parts=3, steps=4)
    async with subscribed(stack) as subscriber:
        await post_all(stack, bodies)
        await until(lambda: has_received(stack, subscriber, len(bodies)), "all changes are received")
    result = stack.run("audit", "--json")
    assert consumer.stop() == 0
    # Changes wait while no process publishes them; deleted ones are missing.
    await stack.started("consume", "orders", STOCKHOOK_CHANGES="false")
    await stack.execute(
        "INSERT INTO change_counts VALUES ('orders', 'committed', 0, 3);"
        "INSERT INTO changes (family, size, changes) VALUES ('orders', 2, '[{}, {}]')"
    )
    short = stack.run("audit", "--json")
    people = stack.run("audit", COLUMNS="160")
    status = json.loads(stack.run("status", "--json").stdout)
    doctor = stack.run("doctor", "--json")

    inventory = _origins(result.stdout)["inventory"]
    orders = _origins(short.stdout)["orders"]
    assert result.returncode == 0
    assert (inventory["committed"], inventory["published"], inventory["waiting"]) == (12, 12, 0)
    assert inventory["oldest_seconds"] is None
    assert short.returncode == 1
    assert (orders["committed"], orders["published"], orders["waiting"], orders["missing"]) == (3, 0, 2, 1)
    assert "missing: 1 changes of orders are neither published nor waiting" in people.stdout
    assert [counts["waiting"] for counts in status["changes"] if counts["family"] == "orders"] == [2]
    assert "1 of orders were committed, and are neither published nor waiting" in doctor.stdout


def _origins(output: str) -> dict[str, dict[str, Any]]:
    return {counts["family"]: counts for counts in json.loads(output)["feed"]["families"]}


async def _are_duplicates(stack: Stack, expected: int) -> bool:
    rows = await stack.fetch("SELECT sum(duplicates) AS duplicates FROM event_sequences")
    return int(rows[0]["duplicates"] or 0) >= expected


@pytest.mark.parametrize("point", ["change_taken", "change_published", "committed", "saved"])
async def test_a_process_that_dies_loses_and_reorders_nothing(stack: Stack, point: str) -> None:
    assert point in POINTS
    await stack.started("ingest")
    bodies = lives(parts=4, steps=8)
    async with subscribed(stack) as subscriber:
        await post_all(stack, bodies)
        dying = stack.start("consume", "inventory", STOCKHOOK_CRASH_AT=f"{point}:2", STOCKHOOK_BATCH_SIZE="8")
        await until(lambda: has_died(dying), f"it dies at {point}")
        await stack.started("consume", "inventory")

        async def has_received_what_was_committed() -> bool:
            # The broker may return an event after later ones: its change is overtaken, and not published.
            [row] = await stack.fetch(
                "SELECT sum(changes) AS number FROM change_counts WHERE state = 'committed'"
            )
            is_applied = await stack.count("event_log") == len(bodies)
            return is_applied and await has_received(stack, subscriber, int(row["number"]))

        await until(has_received_what_was_committed, "all changes are received")
        parts = await stack.fetch("SELECT part_id, status FROM parts")

    states = {change["subject"]: change["data"]["after"]["status"] for change in subscriber.distinct}
    assert states == {row["part_id"]: row["status"] for row in parts}
    subscriber.check_order()


async def test_several_publish_side_by_side(stack: Stack) -> None:
    await stack.started("ingest")
    for _ in range(3):
        await stack.started("consume", "inventory", STOCKHOOK_BATCH_SIZE="5")
    bodies = lives(parts=3, steps=40)
    async with subscribed(stack) as subscriber:
        await post_all(stack, bodies)

        async def has_the_last_states() -> bool:
            # Overtaken events change nothing, and are not published.
            rows = await stack.fetch("SELECT part_id, status FROM parts")
            states = {change["subject"]: change["data"]["after"]["status"] for change in subscriber.got}
            is_applied = await stack.count("event_log") == len(bodies) and await stack.count("changes") == 0
            return is_applied and states == {row["part_id"]: row["status"] for row in rows}

        await until(has_the_last_states, "all changes are received")

    subscriber.check_order()


async def test_it_can_be_off(stack: Stack) -> None:
    await stack.started_apart(STOCKHOOK_CHANGES="false")
    await stack.post_ovoko(status_change(1, "13", "sold"))
    await until(lambda: _has_part(stack), "it is applied")

    assert await stack.count("changes") == 0


async def _has_part(stack: Stack) -> bool:
    return await stack.count("parts") == 1


async def test_a_subscriber_chooses_types_and_no_subscriber_is_required(stack: Stack) -> None:
    await stack.started_apart()
    await stack.post_ovoko(status_change(1, "13", "reserved"))
    await until(lambda: _outbox_is_empty(stack), "it had no subscriber")
    async with subscribed(stack, ["stockhook.part.sold"]) as subscriber:
        await stack.post_ovoko(status_change(2, "13", "in_warehouse"))
        await stack.post_ovoko(status_change(3, "13", "sold"))
        await until(lambda: has_received(stack, subscriber, 1), "the sale is published")

    assert [change["type"] for change in subscriber.got] == ["stockhook.part.sold"]


async def _outbox_is_empty(stack: Stack) -> bool:
    return await stack.count("event_log") == 1 and await stack.count("changes") == 0


async def test_the_command_shows_changes_as_they_come(stack: Stack) -> None:
    await stack.started_apart()
    tail = stack.start("changes", "tail", "--json", "part.*")
    numbers = count(1)

    async def has_shown() -> bool:
        # Changes before its subscription are not delivered to it.
        number = next(numbers)
        await stack.post_ovoko(status_change(number, "13", STATUSES[number % 2 + 1]))
        return "stockhook.part.sold" in tail.lines()

    await until(has_shown, "it shows the change")
    shown = next(json.loads(line) for line in tail.lines().splitlines() if "part.sold" in line)
    assert shown["subject"] == "13"
