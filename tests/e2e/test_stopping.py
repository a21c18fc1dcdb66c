"""SIGTERM under load: what was finished is not delivered again."""

import asyncio
import json
import signal
from itertools import count

import httpx

from tests.support.stack import Stack, until

STOPS = 8


def event(number: int) -> bytes:
    document = {
        "event_id": f"00000000-0000-4000-8000-{number:012}",
        "event_type": "order.return.updated",
        "timestamp": "2026-03-01T12:00:00+00:00",
        "event_data": {"return_id": str(number % 50), "order_id": "1"},
    }
    return json.dumps(document).encode()


async def test_graceful_stops_under_load_repeat_nothing_that_was_finished(stack: Stack) -> None:
    await stop_under_load(stack, STOPS)


async def stop_under_load(stack: Stack, stops: int) -> None:
    """A finished event that is delivered again shows as a duplicate in the audit."""
    await stack.started("ingest")
    numbers = count()
    stopping = asyncio.Event()

    async def send() -> None:
        headers = {"X-Webhook-Secret": stack.settings.ovoko_secrets[0].get_secret_value()}
        async with httpx.AsyncClient(timeout=20) as client:
            while not stopping.is_set():
                answer = await client.post(
                    f"{stack.url}/webhooks/ovoko", content=event(next(numbers)), headers=headers
                )
                assert answer.status_code == 200

    senders = [asyncio.create_task(send()) for _ in range(4)]
    codes = []
    for _ in range(stops):
        worker = await stack.started("consume", "returns")
        before = await stack.count("event_log")

        async def works(before: int = before) -> bool:
            return await stack.count("event_log") > before

        await until(works, "it works")
        codes.append(await asyncio.to_thread(worker.stop, 10))
    stopping.set()
    await asyncio.gather(*senders)
    await stack.started("consume", "returns")
    total = next(numbers)

    async def all_applied() -> bool:
        return await stack.count("event_log") == total

    await until(all_applied, "all are applied", 30)
    check = json.loads(stack.run("audit", "--json").stdout)
    print(f"{stops} graceful stops, {total:,} events, {check['accounts'][0]['duplicates']} repeated")
    assert codes == [0] * stops
    assert [account["duplicates"] for account in check["accounts"]] == [0]
    assert check["missing"] == {}


async def test_a_second_signal_ends_at_once_and_loses_nothing(stack: Stack) -> None:
    await stack.execute(
        """
        CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep(3); RETURN NULL; END $$;
        CREATE TRIGGER slow AFTER INSERT OR UPDATE ON returns FOR EACH STATEMENT EXECUTE FUNCTION slow();
        """
    )
    await stack.started("ingest")
    worker = await stack.started("consume", "returns")
    await stack.post_ovoko(event(1))

    async def in_hand() -> bool:
        return bool(await stack.fetch("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))

    await until(in_hand, "it is in hand")
    worker.signal(signal.SIGTERM)
    await asyncio.sleep(0.2)
    worker.signal(signal.SIGTERM)
    code = await asyncio.to_thread(worker.wait, 2)
    await stack.execute("DROP TRIGGER slow ON returns; DROP FUNCTION slow")
    await stack.started("consume", "returns")

    async def applied() -> bool:
        return await stack.count("returns") == 1

    await until(applied, "it is applied")
    assert code == 128 + signal.SIGTERM
    assert (await stack.fetch("SELECT update_count FROM returns"))[0]["update_count"] == 1
