"""The check of a live broker against the expected topology."""

import json

from tests.support.stack import Stack
from worker.amqp.topology import Queue, topology


async def test_declaring_is_idempotent_and_then_all_is_as_expected(stack: Stack) -> None:
    assert stack.run("topology").returncode == 0
    assert stack.run("topology").returncode == 0
    check = stack.run("topology", "--check")

    assert (check.returncode, check.stdout) == (0, "as expected\n")


async def test_a_check_names_missing_objects_and_creates_nothing(stack: Stack) -> None:
    await stack.delete_queue("stockhook.orders.retry.2s")
    for _ in range(2):
        check = stack.run("topology", "--check")

        assert check.returncode == 1
        assert check.stdout.splitlines() == [
            "queue stockhook.orders.retry.2s is missing",
            "binding stockhook.return --stockhook.orders.retry.2s--> stockhook.orders.retry.2s is missing",
            "2 differences",
        ]


async def test_a_check_names_the_argument_that_differs(stack: Stack) -> None:
    await stack.delete_queue("stockhook.orders.dead")
    different = Queue("stockhook.orders.dead", {"x-queue-type": "quorum", "x-max-length": 5})
    async with stack.broker.connection() as connection:
        channel = await connection.channel()
        await channel.declare_item(different)
    try:
        check = stack.run("topology", "--check", "--json")
        declared = stack.run("topology")
    finally:
        await stack.delete_queue("stockhook.orders.dead")

    difference, _binding = json.loads(check.stdout)["differences"]
    assert check.returncode == 1
    assert "x-max-length" in difference
    assert "stockhook.orders.dead" in difference
    # A declaration fails with the same sentence, not with a traceback.
    assert declared.returncode == 78
    assert "x-max-length" in declared.stderr
    assert "Traceback" not in declared.stderr


async def test_a_check_names_bindings_that_are_missing_and_queues_that_are_too_many(stack: Stack) -> None:
    await stack.delete_queue("stockhook.returns")
    async with stack.broker.connection() as connection:
        channel = await connection.channel()
        # Declared again without its bindings; and a retry queue of a former schedule.
        await channel.declare_item(
            next(
                queue for queue in topology(stack.settings.delays).queues if queue.name == "stockhook.returns"
            )
        )
        await channel.declare_item(Queue("stockhook.returns.retry.99s", {"x-queue-type": "quorum"}))
    try:
        check = stack.run("topology", "--check")
        declared = stack.run("topology")
    finally:
        await stack.delete_queue("stockhook.returns.retry.99s")
    after = stack.run("topology", "--check")

    assert check.returncode == 1
    assert check.stdout.splitlines() == [
        "binding stockhook.events --ovoko.order.return.created--> stockhook.returns is missing",
        "binding stockhook.events --ovoko.order.return.updated--> stockhook.returns is missing",
        "binding stockhook.events --ovoko.stockhook.observed.return--> stockhook.returns is missing",
        "binding stockhook.return --stockhook.returns--> stockhook.returns is missing",
        "queue stockhook.returns.retry.99s is not ours",
        "5 differences",
    ]
    assert declared.returncode == 0
    assert (after.returncode, after.stdout) == (0, "as expected\n")


async def test_a_queue_that_is_deleted_under_its_consumer_is_declared_again(stack: Stack) -> None:
    worker = await stack.started("consume", "orders")
    await stack.delete_queue("stockhook.orders")
    await stack.started("ingest")
    await stack.ready(worker)

    async with stack.broker.connection() as connection:
        depth = await connection.depth("stockhook.orders")
    assert depth is not None
