"""A consumer is killed or stopped during a batch: each event is applied once."""

from tests.support.events import body, return_updated
from tests.support.fault_sql import REMOVE_FAULT, delay_writes
from tests.support.stack import Stack, until

# Each transaction stays open long enough for a kill during it.
SLOW_RETURNS = delay_writes("returns", seconds=0.2)
EVENTS = 300


async def test_kill_9_during_a_batch_loses_no_event_and_applies_none_twice(stack: Stack) -> None:
    """`update_count` counts events, which shows effects that are applied twice or never."""
    await stack.execute(SLOW_RETURNS)
    ingest = await stack.started("ingest")
    for number in range(EVENTS):
        await stack.post_ovoko(body(return_updated(number, number % 7)))

    async def in_a_batch() -> bool:
        rows = await stack.fetch(
            "SELECT 1 FROM pg_stat_activity WHERE application_name = 'stockhook/consumer' "
            "AND xact_start < clock_timestamp() - interval '30 ms'"
        )
        return bool(rows)

    for _ in range(5):
        consumer = await stack.started("consume", STOCKHOOK_BATCH_SIZE="10")
        await until(in_a_batch, "a transaction is open")
        consumer.kill()
    await stack.execute(REMOVE_FAULT)
    await stack.started("consume")

    async def all_applied() -> bool:
        return await stack.count("event_log") == EVENTS

    await until(all_applied, "all events are applied")
    rows = await stack.fetch("SELECT return_id, update_count FROM returns")

    assert {row["return_id"]: row["update_count"] for row in rows} == {
        str(number): len(range(number, EVENTS, 7)) for number in range(7)
    }
    assert await stack.depths() == {}
    assert ingest.stop() == 0


async def test_sigterm_finishes_deliveries_in_flight_and_exits_0(stack: Stack) -> None:
    await stack.execute(SLOW_RETURNS)
    run = await stack.started("run", STOCKHOOK_BATCH_SIZE="10")
    for number in range(40):
        await stack.post_ovoko(body(return_updated(number, number % 7)))

    assert run.stop() == 0
    applied = await stack.count("event_log")
    await stack.execute(REMOVE_FAULT)
    waiting = (await stack.depths()).get("stockhook.returns", 0)
    assert applied + waiting == 40
    assert applied > 0
