"""kill -9 in the middle of a batch: nothing is lost, nothing is applied twice."""

import json

from tests.support.stack import Stack, until

# Holds each transaction open long enough to be killed in it.
SLOW = """
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(0.2);
    RETURN NULL;
END $$;
CREATE TRIGGER slow AFTER INSERT OR UPDATE ON returns
    FOR EACH STATEMENT EXECUTE FUNCTION slow();
"""
FAST = """
DROP TRIGGER IF EXISTS slow ON returns;
DROP FUNCTION IF EXISTS slow;
"""

EVENTS = 300


def updated(number: int) -> bytes:
    document = {
        "event_id": f"00000000-0000-4000-8000-{number:012}",
        "event_type": "order.return.updated",
        "timestamp": "2026-03-01T12:00:00+00:00",
        "event_data": {"return_id": str(number % 7), "order_id": "1"},
    }
    return json.dumps(document).encode()


async def test_kill_9_in_mid_batch_loses_nothing_and_doubles_nothing(stack: Stack) -> None:
    """`update_count` counts events, so an effect applied twice or never shows in it."""
    await stack.execute(FAST + SLOW)
    ingest = await stack.started("ingest")
    for number in range(EVENTS):
        await stack.post_ovoko(updated(number))

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
    await stack.execute(FAST)
    await stack.started("consume")

    async def all_applied() -> bool:
        return await stack.count("event_log") == EVENTS

    await until(all_applied, "all are applied")
    rows = await stack.fetch("SELECT return_id, update_count FROM returns")

    assert {row["return_id"]: row["update_count"] for row in rows} == {
        str(number): len(range(number, EVENTS, 7)) for number in range(7)
    }
    assert await stack.depths() == {}
    assert ingest.stop() == 0


async def test_sigterm_finishes_what_is_in_hand_and_exits_0(stack: Stack) -> None:
    await stack.execute(FAST + SLOW)
    run = await stack.started("run", STOCKHOOK_BATCH_SIZE="10")
    for number in range(40):
        await stack.post_ovoko(updated(number))

    assert run.stop() == 0
    applied = await stack.count("event_log")
    await stack.execute(FAST)
    waiting = (await stack.depths()).get("stockhook.returns", 0)
    assert applied + waiting == 40
    assert applied > 0
