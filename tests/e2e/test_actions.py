"""What is asked of a marketplace: once for each key, whoever dies meanwhile, or known to be in doubt."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from deploy.local.services import Services
from schemas import examples
from tests.e2e.test_changes import has_died
from tests.e2e.test_crash_points import ACTION_POINTS
from tests.integration.test_seller_commands import CANARY, DETAILS
from tests.stack import BUYBACK_TOKEN, Stack, until
from worker.actions.relay import message
from worker.cli.simulate import client_settings
from worker.marketplaces.buyback.requests import Slot
from worker.simulator.buyback_api import TradeIn
from worker.simulator.faults import Fault, Kind
from worker.simulator.router import Simulation
from worker.simulator.server import serving

ORDER = "order-1"
PICKUPS = "pickup-request"
EXAMPLE = next(one.body for one in examples.documented() if one.name == "CollectionItemPickupMissedEvent")


@dataclass
class Platform:
    """The simulated trade-in platform, and the product that speaks to it."""

    stack: Stack
    simulation: Simulation
    trade_in: TradeIn

    async def miss(self, order_id: str = ORDER, minute: int = 0, item: str = "i1") -> None:
        """Tell of a missed pickup."""
        document = json.loads(EXAMPLE)
        document["token"] = BUYBACK_TOKEN
        result = document["result"]
        result["timestamp"] = f"2026-03-01T12:{minute:02}:00Z"
        result["itemId"] = item
        result["order"]["id"] = order_id
        answer = await self.stack.post_buyback(json.dumps(document).encode())
        assert answer.status_code == 200

    def fail(self, kind: Kind, path: str = PICKUPS, **more: Any) -> None:
        self.simulation.faults.ask(Fault(kind=kind, path=path, **more))

    def asked(self, endpoint: str = PICKUPS) -> int:
        """Requests that came, however they were answered."""
        return sum(str(one["path"]).endswith(endpoint) for one in self.simulation.answered)

    def requested(self, order_id: str = ORDER) -> int:
        """Pickups that the platform took."""
        return self.trade_in.orders[order_id].pickups_requested

    def offered(self) -> list[Slot]:
        return self.trade_in.offered(self.trade_in.orders[ORDER])

    async def actions(self) -> list[dict[str, Any]]:
        rows = await self.stack.fetch("SELECT * FROM actions ORDER BY created_at, key")
        return [{**row, "outcome": row["outcome"] and json.loads(row["outcome"])} for row in rows]

    async def settled(self, *states: str, seconds: float = 20) -> list[dict[str, Any]]:
        """The actions, once their states are these."""

        async def are_so() -> bool:
            return sorted(row["state"] for row in await self.actions()) == sorted(states)

        await until(are_so, f"actions are {states}", seconds)
        return await self.actions()


@pytest.fixture
async def platform(stack: Stack) -> AsyncIterator[Platform]:
    async with _simulated(stack) as platform:
        yield platform


@asynccontextmanager
async def _simulated(stack: Stack) -> AsyncIterator[Platform]:
    trade_in = TradeIn([ORDER, *(f"order-{number}" for number in range(2, 9))])
    simulation = Simulation({"buyback": trade_in})
    async with serving(simulation) as port:
        ours = client_settings(f"http://127.0.0.1:{port}")
        stack.environment |= {f"STOCKHOOK_{name}": value for name, value in ours.items()}
        stack.environment["STOCKHOOK_REREQUEST_PICKUP"] = "first_slot"
        yield Platform(stack, simulation, trade_in)
        stack.close()


async def test_a_missed_pickup_is_requested_again_once(platform: Platform) -> None:
    await platform.stack.started("run", STOCKHOOK_CHANGES="false")
    # Of two items, and one of them twice.
    for item in ("i1", "i2", "i1"):
        await platform.miss(item=item)
    (row,) = await platform.settled("done")

    first = platform.offered()[0].model_dump(mode="json")
    assert row["kind"] == "buyback.rerequest_pickup"
    assert (row["subject"], row["attempts"]) == (ORDER, 1)
    assert row["outcome"] == {"status": 201, "slots": [first]}
    assert platform.requested() == 1
    assert platform.trade_in.orders[ORDER].slots == (platform.offered()[0],)

    # Told again with another time, it is another missed pickup, for which there is a request already.
    await platform.miss(minute=1)
    rows = await platform.settled("done", "done")
    assert rows[1]["outcome"] == {"not_needed": "a pickup was requested since the one that was missed"}
    assert platform.requested() == 1


@pytest.mark.parametrize("point", ACTION_POINTS)
async def test_who_dies_asks_at_most_once(platform: Platform, point: str) -> None:
    await platform.stack.started("ingest")
    dying = platform.stack.start("consume", "buybacks", STOCKHOOK_CRASH_AT=f"{point}:1")
    await platform.miss()
    await until(lambda: has_died(dying), f"it dies at {point}")
    await platform.stack.started("consume", "buybacks")
    is_in_doubt = point in ("action_begun", "action_performed")
    (row,) = await platform.settled("unknown" if is_in_doubt else "done")

    assert platform.requested() == (0 if point == "action_begun" else 1)
    if is_in_doubt:
        assert row["outcome"] == {"reason": "the process ended while the request was under way"}


async def test_it_can_be_left_to_a_person(platform: Platform) -> None:
    """By default, a missed pickup is a communication and no more."""
    await platform.stack.started("run", STOCKHOOK_REREQUEST_PICKUP="off")
    await platform.miss()
    await until(lambda: _is_called_for(platform), "the communication is due")

    assert await platform.actions() == []
    assert platform.asked() == 0


async def _is_called_for(platform: Platform) -> bool:
    return await platform.stack.count("communications") == 1


async def test_what_becomes_of_answers_that_are_not_well(platform: Platform) -> None:
    """Each order has its own fault; all are in the table at once."""
    orders = platform.trade_in.orders
    orders["order-2"] = replace(orders["order-2"], delivery="dropoff")
    # order-2 is refused by what it is (409). The others by what the platform does:
    platform.fail(Kind.RATE_LIMITED, "order-3/pickup-request", times=1, seconds=1)
    platform.fail(Kind.ERROR, "order-4/pickup-request", times=1)
    platform.fail(Kind.HANG_UP, "order-5/pickup-request", times=1)
    platform.fail(Kind.NOT_JSON, "order-6/pickup-capabilities")
    await platform.stack.started("run")
    for number in range(2, 7):
        await platform.miss(f"order-{number}")
    rows = await platform.settled("refused", "done", "unknown", "unknown", "failed", seconds=40)
    found = {row["subject"]: row for row in rows}
    letter = await platform.stack.get("stockhook.actions.dead")

    assert {order: (row["state"], row["attempts"]) for order, row in found.items()} == {
        "order-2": ("refused", 1),
        "order-3": ("done", 2),
        "order-4": ("unknown", 1),
        "order-5": ("unknown", 1),
        "order-6": ("failed", 4),
    }
    assert found["order-2"]["outcome"] == {
        "reason": "refused with status 409 Conflict (the order is dropped off)"
    }
    assert found["order-4"]["outcome"] == {"reason": "answered 500 Internal Server Error"}
    # It was taken, and its answer lost: never asked for again.
    assert platform.requested("order-5") == 1
    assert platform.asked("order-5/pickup-request") == 1
    assert letter is not None
    assert letter.headers["x-reason"] == "the answer is no JSON"
    assert ORDER not in letter.body.decode()


async def test_an_order_that_moved_on_needs_no_pickup(platform: Platform) -> None:
    """The action waits on the ladder, while the platform books a pickup by itself."""
    platform.fail(Kind.UNAVAILABLE, "pickup-capabilities", times=4, seconds=0)
    await platform.stack.started("run")
    await platform.miss()
    await until(lambda: _was_tried(platform), "it is on the ladder")
    await platform.stack.execute("UPDATE buyback_orders SET status = 'pickup_scheduled'")
    (row,) = await platform.settled("done")

    assert row["outcome"] == {"not_needed": "the order's status is pickup_scheduled by now"}
    assert platform.asked() == 0


async def _was_tried(platform: Platform) -> bool:
    return any(row["outcome"] for row in await platform.actions())


async def test_an_outage_costs_no_attempt(platform: Platform, services: Services) -> None:
    """The broker is killed while the platform is being asked."""
    node = services.rabbitmq
    assert node is not None
    platform.fail(Kind.SLOW, "pickup-request", times=1, seconds=2)
    await platform.stack.started("run")
    await platform.miss()
    await until(lambda: _is_asked(platform), "it is asked")
    node.kill()
    await asyncio.to_thread(node.start)
    (row,) = await platform.settled("done", seconds=40)
    await until(lambda: _is_quiet(platform.stack), "nothing waits any more", 40)

    assert row["attempts"] == 1
    assert platform.requested() == 1


async def _is_asked(platform: Platform) -> bool:
    return platform.requested() == 1


async def _is_quiet(stack: Stack) -> bool:
    return not await stack.depths()


async def test_what_people_ask_for_waits_sealed_and_is_done(platform: Platform, tmp_path: Path) -> None:
    stack = platform.stack
    details = tmp_path / "details.json"
    details.write_text(json.dumps(DETAILS))
    slot = platform.offered()[1]
    window = f"{slot.initial_slot.isoformat()}/{slot.final_slot.isoformat()}"
    pickup = ("buyback", "pickup-request", ORDER, "--slot", window, "--enqueue", "--key", "k1", "--json")
    given = ("buyback", "payment-details", "order-2", "--file", str(details), "--enqueue")

    unsealed = stack.run(*given, STOCKHOOK_SEALING_KEYS="")
    first, again = json.loads(stack.run(*pickup).stdout), json.loads(stack.run(*pickup).stdout)
    taken = stack.run("buyback", "dropoff-request", ORDER, "--enqueue", "--key", "k1")
    for command in (
        given,
        ("buyback", "dropoff-request", "order-3", "--enqueue"),
        ("buyback", "shipment-capabilities", "order-4", "--enqueue"),
        ("buyback", "pickup-capabilities", ORDER, "--enqueue"),
    ):
        assert stack.run(*command).returncode == 0
    waiting = await stack.fetch("SELECT * FROM actions WHERE is_sealed")

    assert unsealed.returncode == 78
    assert "STOCKHOOK_SEALING_KEYS" in unsealed.stderr
    assert (first["is_new"], again["is_new"]) == (True, False)
    assert again["action_id"] == first["action_id"]
    assert taken.returncode == 1
    assert "the key k1 is that of buyback.pickup_request" in taken.stderr
    assert len(waiting) == 1
    assert CANARY.encode() not in waiting[0]["request"]

    consumer = await stack.started("consume", "orders")
    rows = {row["kind"].split(".")[1]: row for row in await platform.settled(*["done"] * 5, seconds=30)}

    assert platform.trade_in.orders[ORDER].slots == (slot,)
    assert platform.trade_in.orders["order-2"].has_payment_details
    assert platform.trade_in.orders["order-3"].delivery == "dropoff"
    assert rows["shipment_capabilities"]["outcome"] == {"pickup_allowed": True, "dropoff_allowed": True}
    assert len(rows["pickup_capabilities"]["outcome"]["slots"]) == len(platform.offered())
    # Sealed while it waited, and gone with the need for it.
    assert rows["payment_details"]["request"] == b""
    assert CANARY not in consumer.lines()


async def test_people_see_what_is_in_doubt_and_settle_it(platform: Platform) -> None:
    stack = platform.stack
    for order in (ORDER, "order-2"):
        platform.fail(Kind.ERROR, f"{order}/dropoff-request", times=1)
        assert stack.run("buyback", "dropoff-request", order, "--enqueue").returncode == 0
    worker = await stack.started("consume", "orders")
    await platform.settled("unknown", "unknown")
    listed = json.loads(stack.run("actions", "list", "--state", "unknown", "--json").stdout)
    ids = {row["subject"]: row["action_id"] for row in listed}
    shown = stack.run("actions", "show", ids[ORDER])
    retried = stack.run("actions", "retry", ids[ORDER])
    closed = stack.run("actions", "close", ids["order-2"], "--reason", "seen there", "--json")
    rows = {row["subject"]: row for row in await platform.settled("done", "done")}
    again = stack.run("actions", "retry", ids[ORDER])
    table = stack.run("actions", "list", COLUMNS="80").stdout
    measured = await stack.ops(worker.ops_port, "/metrics")

    assert "answered 500 Internal Server Error" in shown.stdout
    assert (retried.returncode, closed.returncode) == (0, 0)
    assert rows[ORDER]["outcome"] == {"status": 201}
    assert rows["order-2"]["outcome"]["reason"] == "seen there"
    assert platform.trade_in.orders["order-2"].delivery is None
    assert (again.returncode, again.stderr) == (1, "stockhook: it is done: nothing was changed\n")
    assert all(said in table for said in ("buyback.dropoff_request", ids[ORDER], "seen there"))
    assert stack.run("actions", "show", str(UUID(int=1))).returncode == 1
    assert stack.run("actions", "list", "--state", "lost").returncode == 2
    for result, number in (("unknown", 2), ("done", 1)):
        line = f'stockhook_actions_total{{kind="buyback.dropoff_request",result="{result}"}} {number}.0'
        assert line in measured.text


async def test_doctor_says_when_actions_cannot_be_done(platform: Platform) -> None:
    well = platform.stack.run("doctor", "--json")
    del platform.stack.environment["STOCKHOOK_BUYBACK_CLIENT_ID"]
    ill = platform.stack.run("doctor", "--json")

    def of_actions(found: str) -> list[tuple[str, str]]:
        return [
            (one["level"], one["what"])
            for one in json.loads(found)["findings"]
            if one["subject"] == "actions"
        ]

    assert [level for level, _ in of_actions(well.stdout)] == ["ok"]
    ((level, what),) = of_actions(ill.stdout)
    assert level == "error"
    assert "STOCKHOOK_BUYBACK_CLIENT_ID" in what


async def test_dead_letters_are_taken_off_the_queue_since_the_table_has_them(platform: Platform) -> None:
    """One of ours, whose ladder is climbed, and one that the broker gave up on, as it does by itself."""
    stack = platform.stack
    platform.fail(Kind.NOT_JSON, f"{ORDER}/pickup-capabilities")
    assert stack.run("buyback", "pickup-capabilities", ORDER, "--enqueue").returncode == 0
    await stack.execute(
        "INSERT INTO actions (kind, key, subject, request, published_at) "
        "VALUES ('buyback.dropoff_request', 'k', 'order-2', '{}', now())"
    )
    (given_up,) = await stack.fetch("SELECT action_id FROM actions WHERE key = 'k'")
    letter = message(given_up["action_id"], "buyback.dropoff_request")
    async with stack.broker.connection() as link:
        await (await link.channel()).publish(replace(letter, routing_key="stockhook.actions.dead"), 5)
    await stack.started("consume", "orders", STOCKHOOK_KEEP_DEAD_LETTERS="true")
    rows = {row["subject"]: row["outcome"]["reason"] for row in await platform.settled("failed", "failed")}
    await until(lambda: _is_quiet(stack), "no queue holds any of it")

    assert rows == {
        ORDER: "the answer is no JSON",
        "order-2": "the broker gave up on it: it ended its consumer too often",
    }
    assert platform.asked("order-2/dropoff-request") == 0


async def test_who_is_stopped_waits_for_what_must_not_be_repeated(platform: Platform) -> None:
    stack = platform.stack
    platform.fail(Kind.SLOW, "dropoff-request", times=1, seconds=2)
    assert stack.run("buyback", "dropoff-request", ORDER, "--enqueue").returncode == 0
    stopped = await stack.started("consume", "orders")

    async def is_under_way() -> bool:
        return platform.trade_in.orders[ORDER].delivery is not None

    await until(is_under_way, "the request is there, its answer not yet")
    code = await asyncio.to_thread(stopped.stop)
    (row,) = await platform.actions()

    assert (code, row["state"], row["outcome"]) == (0, "done", {"status": 201})
