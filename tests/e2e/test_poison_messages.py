"""Poison messages, which end or hang their consumer, and events that fail for other reasons."""

import signal

from tests.support.events import body, numbered_id, return_updated
from tests.support.fault_proxy import FaultProxy
from tests.support.fault_sql import REMOVE_FAULT, delay_writes, fail_writes
from tests.support.postgres_messages import PostgresWatch
from tests.support.protocol_watch import Point
from tests.support.stack import Stack, Worker, until
from worker.amqp.tap import Delivery
from worker.pipeline.circuit_breaker import THRESHOLD
from worker.pipeline.isolation import LOSSES
from worker.postgres import poison

POISON_ROW = "NEW.return_id = 'poison'"


async def kill_while_it_handles_the_poison(stack: Stack, worker: Worker, killed: set[int]) -> bool:
    """Kill the worker as the event itself would; return False if the event is already a dead letter.

    `killed` has the backends of earlier kills. Postgres takes a second to notice the end of their clients;
    until then they look like the backend of the new worker.
    """

    async def asleep_or_done() -> str | None:
        rows = await stack.fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'stockhook/consumer' "
            "AND wait_event = 'PgSleep' AND pid <> ALL($1::int[])",
            list(killed),
        )
        if rows:
            killed.update(row["pid"] for row in rows)
            return "asleep"
        dead = (await stack.depths()).get("stockhook.returns.dead")
        return "done" if dead else None

    if (
        await until(asleep_or_done, "the worker handles the poison message, or it is a dead letter", 30)
        == "done"
    ):
        return False
    worker.signal(signal.SIGKILL)
    worker.wait()
    return True


async def lose_deliveries(stack: Stack, number: int) -> None:
    """End a session with unacked deliveries, as after the kill of a broker node: they are delivered again."""
    arrived: list[Delivery] = []

    async def all_arrived() -> bool:
        return len(arrived) == number

    async with stack.broker.connection() as connection:
        await (await connection.channel()).consume("stockhook.returns", "test", number, arrived.append)
        await until(all_arrived, "all messages are delivered")


async def test_events_whose_deliveries_were_lost_once_are_not_isolated(stack: Stack) -> None:
    await stack.started("ingest")
    for number in range(60):
        await stack.post_ovoko(body(return_updated(number)))
    await lose_deliveries(stack, 60)
    worker = await stack.started("consume", "returns")

    async def all_applied() -> bool:
        return await stack.count("event_log") == 60

    await until(all_applied, "all events are applied")
    assert worker.lines().count("batch.settled") < 10
    assert await stack.count("poison_candidates") == 0


async def test_events_whose_deliveries_were_lost_twice_are_isolated(stack: Stack) -> None:
    await stack.started("ingest")
    for number in range(10):
        await stack.post_ovoko(body(return_updated(number)))
    for _ in range(LOSSES):
        await lose_deliveries(stack, 10)
    worker = await stack.started("consume", "returns")

    async def all_cleared() -> bool:
        return await stack.count("event_log") == 10 and await stack.count("poison_candidates") == 0

    await until(all_cleared, "all events are applied and none is isolated any more")
    assert worker.lines().count("batch.settled") == 10


async def test_of_a_full_buffer_only_the_event_that_ends_its_consumer_is_a_dead_letter(stack: Stack) -> None:
    # Long enough to find its backend and to kill the process.
    await stack.execute(delay_writes("returns", 5, row=POISON_ROW))
    await stack.started("ingest")
    for number in range(40):
        await stack.post_ovoko(body(return_updated(number, "poison" if number == 20 else None)))
    deaths = 0
    killed: set[int] = set()
    while await kill_while_it_handles_the_poison(stack, await stack.started("consume", "returns"), killed):
        deaths += 1
        assert deaths <= poison.TRIES + LOSSES

    async def all_applied() -> bool:
        return await stack.count("event_log") == 39

    await until(all_applied, "the other events are applied")
    message = await stack.get("stockhook.returns.dead")
    assert poison.TRIES <= deaths <= poison.TRIES + LOSSES
    assert message is not None
    assert message.headers["x-event-id"] == numbered_id(20)
    assert "ended its consumer" in str(message.headers["x-reason"])
    assert await stack.depths() == {}
    assert await stack.count("poison_candidates") == 0
    await stack.execute(REMOVE_FAULT)


async def test_lost_answers_to_commits_make_no_event_a_poison_message(
    stack: Stack,
) -> None:
    url = stack.environment["STOCKHOOK_DATABASE_URL"]
    await stack.started("ingest")
    await stack.post_ovoko(body(return_updated(1)))
    for _ in range(LOSSES):
        await lose_deliveries(stack, 1)

    commits = set()

    async def noted_often() -> bool:
        commits.update(row["xmin"] for row in await stack.fetch("SELECT xmin::text FROM poison_candidates"))
        return len(commits) > poison.TRIES + 1

    with FaultProxy.before(url, watch=PostgresWatch) as proxy:
        proxy.cut_randomly(Point.COMMITTED, 1.0)
        stack.start("consume", "returns", STOCKHOOK_DATABASE_URL=proxy.via(url))
        await until(noted_often, "more attempts were recorded than a poison message has", 30)
        proxy.heal()

        async def is_settled() -> bool:
            return (
                await stack.count("event_log") == 1
                and await stack.depths() == {}
                and await stack.count("poison_candidates") == 0
            )

        await until(is_settled, "the event is applied, the queue is empty, and no event is a candidate")


async def test_while_everything_fails_the_queue_is_not_moved_to_the_retry_queues(stack: Stack) -> None:
    await stack.execute(fail_writes("returns"))
    await stack.started("ingest")
    for number in range(60):
        await stack.post_ovoko(body(return_updated(number)))
    worker = await stack.started("consume", "returns")

    async def is_open() -> bool:
        answer = await stack.ops(worker.ops_port, "/readyz")
        return "one event at a time" in str(answer.json()["checks"]["returns"])

    async def all_are_logged() -> bool:
        return worker.lines().count("delivery.failed") >= THRESHOLD

    await until(is_open, "the circuit breaker is open")
    # Another thread writes the log.
    await until(all_are_logged, "its failures are in the log")
    failed = worker.lines().count("delivery.failed")
    await stack.execute(REMOVE_FAULT)

    async def all_applied() -> bool:
        return await stack.count("event_log") == 60

    await until(all_applied, "all events are applied once the cause is removed", 40)
    assert THRESHOLD <= failed <= THRESHOLD + 3
    assert await stack.depths() == {}


async def test_a_statement_that_hangs_is_ended_and_the_other_events_are_applied(stack: Stack) -> None:
    """Postgres cancels a statement after 8 s, far below the broker's consumer timeout."""
    await stack.execute(delay_writes("returns", 3600, row=POISON_ROW))
    await stack.started_apart(STOCKHOOK_RETRY_DELAYS="1")
    for number in range(10):
        await stack.post_ovoko(body(return_updated(number, "poison" if number == 5 else None)))

    async def is_isolated() -> bool:
        depths = await stack.depths()
        retrying = depths.get("stockhook.returns.retry.1s", 0) + depths.get("stockhook.returns.dead", 0)
        return await stack.count("event_log") == 9 and bool(retrying)

    await until(is_isolated, "the other events are applied, and it waits for a retry", 40)
    await stack.execute(REMOVE_FAULT)
