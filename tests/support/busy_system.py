"""The whole product with data of every family and every kind of failure, for screens and their pictures."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from schemas import examples
from schemas.registry import Provider
from tests.support.bulk_jobs import ended, start
from tests.support.console import browser, console, sign_in, users
from tests.support.console_examples import Ids
from tests.support.endpoint import endpoint
from tests.support.events import body, numbered_id, order_created, ovoko, part_changed
from tests.support.fault_sql import REMOVE_FAULT, fail_rows
from tests.support.stack import BUYBACK_TOKEN, OVOKO_SECRET, Stack, until
from worker.cli.simulate import client_settings
from worker.simulator.buyback_api import SimulatedBuyback
from worker.simulator.faults import Fault, Kind
from worker.simulator.router import Simulation
from worker.simulator.server import serving

ACCOUNTS = {"anna": "operator+revealer", "olaf": "operator", "rita": "reader"}
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()

# The part, its order and its return are in the tables; the letter waits for a repair.
PART = "4711"
ORDER = "900211"
RETURN = "77015"

PICKUP_MISSED = next(
    one.body for one in examples.documented() if one.name == "CollectionItemPickupMissedEvent"
)

# Dead at once, each a group of its own, and how often.
UNFIT = (
    (ovoko("order.created", order_id={}), 4),
    (ovoko("part.status.changed", part_id="4802", status=None), 3),
    (ovoko("order.return.created", return_id="77020", order_id=["900219"]), 2),
)
# A comma too many.
BROKEN = (
    b'{"event_type":"part.status.changed","timestamp":"2026-03-01T12:00:00Z",'
    b'"event_data":{"part_id":"%d","status":"sold",}}'
)
BROKEN_PARTS = (4803, 4804)
FAILING_PARTS = range(4900, 4904)


@dataclass
class BusySystem:
    """`url` is that of the console, `settings` are those of the console and of others beside it."""

    stack: Stack
    url: str
    settings: Mapping[str, str]
    ids: Ids


@asynccontextmanager
async def busy_system(
    stack: Stack, seconds: float = 3, rate: float = 40, **settings: str
) -> AsyncIterator[BusySystem]:
    """Send events for some seconds, and let some fail; `settings` are those of the console."""
    simulation = Simulation({"buyback": SimulatedBuyback([f"order-{number}" for number in range(1, 6)])})
    async with AsyncExitStack() as opened:
        port = await opened.enter_async_context(serving(simulation))
        shop = await opened.enter_async_context(endpoint())
        bookkeeping = await opened.enter_async_context(endpoint(lambda _: 500))
        _configure(stack, port, {"shop": shop.url, "bookkeeping": bookkeeping.url})
        opened.push_async_callback(_forget_subscribers, stack)
        await stack.started_apart()
        ops_urls = ",".join(f"http://127.0.0.1:{worker.ops_port}" for worker in stack.workers)
        given = {
            "STOCKHOOK_CONSOLE_USERS": users(**ACCOUNTS),
            "STOCKHOOK_CONSOLE_OPS_URLS": ops_urls,
            **settings,
        }
        url, _ = await opened.enter_async_context(console(stack, **given))
        await _fill(stack, simulation, seconds, rate)
        await _try_a_replay(url)
        yield BusySystem(stack, url, given, await _ids(stack))


def _configure(stack: Stack, port: int, subscribers: Mapping[str, str]) -> None:
    ours = client_settings(f"http://127.0.0.1:{port}")
    stack.environment |= {
        f"STOCKHOOK_{name}": value for name, value in ours.items() if name.startswith("BUYBACK")
    }
    stack.environment |= {
        "STOCKHOOK_KEEP_DEAD_LETTERS": "true",
        "STOCKHOOK_REREQUEST_PICKUP": "first_slot",
        "STOCKHOOK_CHANGES_PRIVATE_TARGETS": "true",
        "STOCKHOOK_CHANGES_WEBHOOKS": json.dumps(
            [
                {"name": name, "url": url, "types": ["part.*", "return.*"], "secret": SECRET}
                for name, url in subscribers.items()
            ]
        ),
    }


async def _forget_subscribers(stack: Stack) -> None:
    """A running process would declare their queues again."""
    stack.close()
    for subscriber in json.loads(stack.environment["STOCKHOOK_CHANGES_WEBHOOKS"]):
        for step in ("", ".retry.1s", ".retry.2s", ".retry.3s", ".dead"):
            await stack.delete_queue(f"stockhook.webhook.{subscriber['name']}{step}")


async def _fill(stack: Stack, simulation: Simulation, seconds: float, rate: float) -> None:
    await stack.execute(
        fail_rows(
            {"parts": f"NEW.part_id IN ({', '.join(repr(str(part)) for part in FAILING_PARTS)})"},
            "the warehouse refuses this shelf",
        )
    )
    await _send_failures(stack)
    await _send_history(stack)
    simulation.faults.add(Fault(kind=Kind("error"), path="order-2"))
    for number in range(1, 4):
        await _miss_pickup(stack, f"order-{number}", number)
    load = ["--rate", f"{rate:g}", "--seconds", f"{seconds:g}", "--seed", "7"]
    sent = await asyncio.to_thread(
        stack.run, "send", *load, "--duplicates", "0.05", "--unhandled", "0.05", "--json"
    )
    assert sent.returncode == 0, sent.stderr
    await _refused_at_the_door(stack)
    failed = sum(times for _, times in UNFIT) + len(FAILING_PARTS) + len(BROKEN_PARTS)

    async def have_failed() -> bool:
        return await stack.count("dead_letters WHERE NOT origin LIKE 'webhook.%'") >= failed

    await until(have_failed, f"{failed} events have failed", 60)
    await stack.execute(REMOVE_FAULT)
    await _let_operators_work(stack)


async def _send_failures(stack: Stack) -> None:
    for document, times in UNFIT:
        for _ in range(times):
            answer = await stack.post_ovoko(body(document))
            assert answer.status_code == 200
    for part in FAILING_PARTS:
        await stack.post_ovoko(body(part_changed(part, number=part)))
    for part in BROKEN_PARTS:
        await stack.post_ovoko(BROKEN % part)


async def _send_history(stack: Stack) -> None:
    """What happened to one part, its order and its return."""
    history = (
        part_changed(PART, "in_warehouse", 0, 1),
        part_changed(PART, "sold", 60, 2),
        order_created(ORDER, 3),
        part_changed(PART, "in_warehouse", 30, 4),
        ovoko("order.return.created", 120, 5, return_id=RETURN, order_id=ORDER),
        ovoko("order.return.updated", 180, 6, return_id=RETURN, order_id=ORDER),
        part_changed(PART, "returned", 240, 7),
    )
    for document in history:
        answer = await stack.post_ovoko(body(document))
        assert answer.status_code == 200
    assert (await stack.post_ovoko(body(history[0]))).status_code == 200


async def _miss_pickup(stack: Stack, order_id: str, minute: int) -> None:
    document = json.loads(PICKUP_MISSED)
    document["token"] = BUYBACK_TOKEN
    document["result"]["timestamp"] = f"2026-03-01T12:{minute:02}:00Z"
    document["result"]["order"]["id"] = order_id
    answer = await stack.post(Provider.BUYBACK, json.dumps(document).encode())
    assert answer.status_code == 200


async def _refused_at_the_door(stack: Stack) -> None:
    for _ in range(3):
        assert (await stack.post_ovoko(b"{}", "a-wrong-secret")).status_code == 401
    assert (await stack.post_buyback(b"no JSON")).status_code == 400
    assert (await stack.post_ovoko(b"x" * 2_000_000, OVOKO_SECRET)).status_code == 413


async def _let_operators_work(stack: Stack) -> None:
    """Pauses, a discarded and a replayed letter: the audit trail has entries."""
    rows = await stack.fetch("SELECT dead_letter_id FROM dead_letters WHERE origin = 'orders' ORDER BY 1")
    oldest = str(rows[0]["dead_letter_id"])
    for arguments in (
        ("pause", "orders", "--reason", "the price list is imported"),
        ("resume", "orders"),
        ("pause", "returns", "--reason", "the warehouse counts its shelves"),
        ("dead", "discard", oldest, "--reason", "sent again by hand"),
    ):
        done = await asyncio.to_thread(stack.run, *arguments)
        assert done.returncode == 0, done.stderr


async def _try_a_replay(url: str) -> None:
    """A dry run of a group, as a job of the console."""
    async with browser(url) as client:
        await sign_in(client)
        await ended(client, await start(client, "dry-run", "origin=inventory"))


async def _ids(stack: Stack) -> Ids:
    letters = await stack.fetch(
        "SELECT DISTINCT ON (origin) dead_letter_id FROM dead_letters ORDER BY origin, dead_letter_id"
    )
    (order,) = await stack.fetch("SELECT order_id FROM buyback_orders ORDER BY order_id LIMIT 1")
    actions = await stack.fetch("SELECT action_id::text FROM actions ORDER BY created_at")
    jobs = await stack.fetch("SELECT job_id FROM bulk_jobs ORDER BY job_id")
    return Ids(
        part=PART,
        order=ORDER,
        returned=RETURN,
        buyback_order=order["order_id"],
        event_id=numbered_id(2),
        letters=tuple(row["dead_letter_id"] for row in letters),
        actions=tuple(row["action_id"] for row in actions),
        jobs=tuple(row["job_id"] for row in jobs),
    )
