"""SIGTERM under load: finished events are not delivered again."""

import asyncio
import json
import signal
from itertools import count

from tests.support.events import body, return_updated
from tests.support.fault_sql import REMOVE_FAULT, delay_writes
from tests.support.stack import Stack, http_client, until

STOPS = 8


async def test_graceful_stops_under_load_repeat_nothing_that_was_finished(stack: Stack) -> None:
    await stop_under_load(stack, STOPS)


async def stop_under_load(stack: Stack, stops: int) -> None:
    """The audit counts a second delivery of a finished event as a duplicate."""
    await stack.started("ingest")
    numbers = count()
    stopping = asyncio.Event()

    async def send() -> None:
        headers = {"X-Webhook-Secret": stack.settings.ovoko_secrets[0].get_secret_value()}
        async with http_client(20) as client:
            while not stopping.is_set():
                answer = await client.post(
                    f"{stack.url}/webhooks/ovoko",
                    content=body(return_updated(number := next(numbers), number % 50)),
                    headers=headers,
                )
                assert answer.status_code == 200

    senders = [asyncio.create_task(send()) for _ in range(4)]
    codes = []
    for _ in range(stops):
        worker = await stack.started("consume", "returns")
        before = await stack.count("event_log")

        async def works(before: int = before) -> bool:
            return await stack.count("event_log") > before

        await until(works, "it applies events")
        codes.append(await asyncio.to_thread(worker.stop))
    stopping.set()
    await asyncio.gather(*senders)
    await stack.started("consume", "returns")
    total = next(numbers)

    async def all_applied() -> bool:
        return await stack.count("event_log") == total

    await until(all_applied, "all events are applied", 30)
    check = json.loads(stack.run("audit", "--json").stdout)
    print(f"{stops} graceful stops, {total:,} events, {check['accounts'][0]['duplicates']} repeated")
    assert codes == [0] * stops
    assert [account["duplicates"] for account in check["accounts"]] == [0]
    assert check["missing"] == {}


async def test_a_second_signal_ends_at_once_and_loses_nothing(stack: Stack) -> None:
    await stack.execute(delay_writes("returns", seconds=3))
    await stack.started("ingest")
    worker = await stack.started("consume", "returns")
    await stack.post_ovoko(body(return_updated(1)))

    async def is_in_flight() -> bool:
        return bool(await stack.fetch("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))

    await until(is_in_flight, "the event is being applied")
    worker.signal(signal.SIGTERM)
    await asyncio.sleep(0.2)
    worker.signal(signal.SIGTERM)
    # It would be 0 if the first signal had ended the process after the event.
    code = await asyncio.to_thread(worker.wait)
    await stack.execute(REMOVE_FAULT)
    await stack.started("consume", "returns")

    async def applied() -> bool:
        return await stack.count("returns") == 1

    await until(applied, "the event is applied")
    assert code == 128 + signal.SIGTERM
    assert (await stack.fetch("SELECT update_count FROM returns"))[0]["update_count"] == 1
