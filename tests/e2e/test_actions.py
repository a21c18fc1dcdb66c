"""Requests to marketplaces: sent once per key, or recorded with an unknown outcome, even if processes die."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from deploy.local.services import Services
from schemas import examples
from tests.e2e.test_changes import has_died
from tests.e2e.test_failpoints import ACTION_POINTS
from tests.support.payment_details import CANARY, DETAILS
from tests.support.stack import BUYBACK_TOKEN, Stack, empty_stack, until
from worker.actions.relay import message
from worker.amqp.tap import Delivery
from worker.cli.simulate import client_settings
from worker.marketplaces.buyback.requests import Slot
from worker.simulator.buyback_api import SimulatedBuyback
from worker.simulator.faults import Fault, Kind
from worker.simulator.router import Simulation
from worker.simulator.server import serving

ORDER = "order-1"
PICKUPS = "pickup-request"
EXAMPLE = next(one.body for one in examples.documented() if one.name == "CollectionItemPickupMissedEvent")


@dataclass
class Platform:
    """The simulated buyback platform, and the product that sends requests to it."""

    stack: Stack
    simulation: Simulation
    buyback: SimulatedBuyback

    async def miss(self, order_id: str = ORDER, minute: int = 0, item: str = "i1") -> None:
        """Send the webhook of a missed pickup."""
        document = json.loads(EXAMPLE)
        document["token"] = BUYBACK_TOKEN
        result = document["result"]
        result["timestamp"] = f"2026-03-01T12:{minute:02}:00Z"
        result["itemId"] = item
        result["order"]["id"] = order_id
        answer = await self.stack.post_buyback(json.dumps(document).encode())
        assert answer.status_code == 200

    def fail(self, kind: Kind, path: str = PICKUPS, **more: Any) -> None:
        self.simulation.faults.add(Fault(kind=kind, path=path, **more))

    def received(self, endpoint: str = PICKUPS) -> int:
        """Requests that the platform received, with any answer."""
        return sum(str(one["path"]).endswith(endpoint) for one in self.simulation.answered)

    def pickups(self, order_id: str = ORDER) -> int:
        """The number of pickups that the platform accepted."""
        return self.buyback.orders[order_id].pickups_requested

    def offered(self) -> list[Slot]:
        return self.buyback.offered(self.buyback.orders[ORDER])

    async def actions(self) -> list[dict[str, Any]]:
        rows = await self.stack.fetch("SELECT * FROM actions ORDER BY created_at, key")
        return [{**row, "outcome": row["outcome"] and json.loads(row["outcome"])} for row in rows]

    async def settled(self, *states: str, seconds: float = 20) -> list[dict[str, Any]]:
        """Wait until the actions have these states, and return them."""

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
    buyback = SimulatedBuyback([ORDER, *(f"order-{number}" for number in range(2, 9))])
    simulation = Simulation({"buyback": buyback})
    async with serving(simulation) as port:
        ours = client_settings(f"http://127.0.0.1:{port}")
        stack.environment |= {f"STOCKHOOK_{name}": value for name, value in ours.items()}
        stack.environment["STOCKHOOK_REREQUEST_PICKUP"] = "first_slot"
        yield Platform(stack, simulation, buyback)
        stack.close()


async def test_a_missed_pickup_is_requested_again_once(platform: Platform) -> None:
    await platform.stack.started_apart(STOCKHOOK_CHANGES="false")
    # Two items, and one of them twice.
    for item in ("i1", "i2", "i1"):
        await platform.miss(item=item)
    (row,) = await platform.settled("done")

    first = platform.offered()[0].model_dump(mode="json")
    assert row["kind"] == "buyback.rerequest_pickup"
    assert (row["subject"], row["attempts"]) == (ORDER, 1)
    assert row["outcome"] == {"status": 201, "slots": [first]}
    assert platform.pickups() == 1
    assert platform.buyback.orders[ORDER].slots == (platform.offered()[0],)

    # Another time is another missed pickup, for which a pickup was already requested.
    await platform.miss(minute=1)
    rows = await platform.settled("done", "done")
    assert rows[1]["outcome"] == {"not_needed": "a pickup was requested since the one that was missed"}
    assert platform.pickups() == 1


@pytest.mark.parametrize("point", ACTION_POINTS)
async def test_a_consumer_that_dies_sends_a_request_at_most_once(platform: Platform, point: str) -> None:
    await platform.stack.started("ingest")
    dying = platform.stack.start("consume", "buybacks", STOCKHOOK_CRASH_AT=f"{point}:1")
    await platform.miss()
    await until(lambda: has_died(dying), f"the consumer dies at {point}")
    await platform.stack.started("consume", "buybacks")
    outcome_unknown = point in ("action_started", "action_performed")
    (row,) = await platform.settled("unknown" if outcome_unknown else "done")

    assert platform.pickups() == (0 if point == "action_started" else 1)
    if outcome_unknown:
        assert row["outcome"] == {"reason": "the process ended while the request was under way"}


async def test_without_the_setting_a_missed_pickup_is_only_a_communication(platform: Platform) -> None:
    await platform.stack.started_apart(STOCKHOOK_REREQUEST_PICKUP="off")
    await platform.miss()
    await until(lambda: _is_called_for(platform), "the communication is due")

    assert await platform.actions() == []
    assert platform.received() == 0


async def _is_called_for(platform: Platform) -> bool:
    return await platform.stack.count("communications") == 1


@dataclass
class Failed:
    """Five orders with a requested pickup, each with a different fault."""

    actions: dict[str, dict[str, Any]]
    letter: Delivery | None
    received_of_order_5: int
    pickups_of_order_5: int


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def failed(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Failed:
    folder = tmp_path_factory.mktemp("failed")
    async with empty_stack(services, folder) as stack, _simulated(stack) as platform:
        orders = platform.buyback.orders
        # Refused with 409 because of its state. The others have a fault of the platform.
        orders["order-2"] = replace(orders["order-2"], delivery="dropoff")
        platform.fail(Kind.RATE_LIMITED, "order-3/pickup-request", times=1, seconds=1)
        platform.fail(Kind.ERROR, "order-4/pickup-request", times=1)
        platform.fail(Kind.HANG_UP, "order-5/pickup-request", times=1)
        platform.fail(Kind.NOT_JSON, "order-6/pickup-capabilities")
        await stack.started_apart()
        for number in range(2, 7):
            await platform.miss(f"order-{number}")
        rows = await platform.settled("refused", "done", "unknown", "unknown", "failed", seconds=60)
        return Failed(
            actions={row["subject"]: row for row in rows},
            letter=await stack.get("stockhook.actions.dead"),
            received_of_order_5=platform.received("order-5/pickup-request"),
            pickups_of_order_5=platform.pickups("order-5"),
        )


@pytest.mark.parametrize(
    ("order", "state", "attempts"),
    [
        pytest.param("order-2", "refused", 1, id="an answer that refuses is final"),
        pytest.param("order-3", "done", 2, id="a rate limit is retried"),
        pytest.param("order-4", "unknown", 1, id="after an error the outcome is unknown"),
        pytest.param("order-5", "unknown", 1, id="without an answer the outcome is unknown"),
        pytest.param("order-6", "failed", 4, id="a question that fails is retried and then failed"),
    ],
)
def test_a_fault_decides_the_outcome_of_an_action(
    failed: Failed, order: str, state: str, attempts: int
) -> None:
    action = failed.actions[order]

    assert (action["state"], action["attempts"]) == (state, attempts)


def test_an_outcome_has_the_reason(failed: Failed) -> None:
    assert failed.actions["order-2"]["outcome"] == {
        "reason": "refused with status 409 Conflict (the order has a drop-off)"
    }
    assert failed.actions["order-4"]["outcome"] == {"reason": "answered 500 Internal Server Error"}


def test_a_request_whose_answer_was_lost_is_not_sent_again(failed: Failed) -> None:
    assert (failed.received_of_order_5, failed.pickups_of_order_5) == (1, 1)


def test_the_dead_letter_of_an_action_has_the_reason_and_no_order(failed: Failed) -> None:
    assert failed.letter is not None
    assert failed.letter.headers["x-reason"] == "the answer is no JSON"
    assert "order-6" not in failed.letter.body.decode()


async def test_an_order_that_moved_on_needs_no_pickup(platform: Platform) -> None:
    """The action waits for its retry, while the platform books a pickup by itself."""
    platform.fail(Kind.UNAVAILABLE, "pickup-capabilities", times=4, seconds=0)
    await platform.stack.started_apart()
    await platform.miss()
    await until(lambda: _was_tried(platform), "the first attempt has failed")
    await platform.stack.execute("UPDATE buyback_orders SET status = 'pickup_scheduled'")
    (row,) = await platform.settled("done")

    assert row["outcome"] == {"not_needed": "the order's status is now pickup_scheduled"}
    assert platform.received() == 0


async def _was_tried(platform: Platform) -> bool:
    return any(row["outcome"] for row in await platform.actions())


async def test_an_outage_costs_no_attempt(platform: Platform, services: Services) -> None:
    """The broker is killed while the platform handles the request."""
    node = services.rabbitmq
    assert node is not None
    platform.fail(Kind.SLOW, "pickup-request", times=1, seconds=2)
    await platform.stack.started("run")
    await platform.miss()
    await until(lambda: _is_requested(platform), "the platform has the request")
    node.kill()
    await asyncio.to_thread(node.start)
    (row,) = await platform.settled("done", seconds=40)
    await until(lambda: _is_quiet(platform.stack), "no message waits", 40)

    assert row["attempts"] == 1
    assert platform.pickups() == 1


async def _is_requested(platform: Platform) -> bool:
    return platform.pickups() == 1


async def _is_quiet(stack: Stack) -> bool:
    return not await stack.depths()


async def test_payment_details_are_encrypted_while_they_wait(platform: Platform, tmp_path: Path) -> None:
    stack = platform.stack
    details = tmp_path / "details.json"
    details.write_text(json.dumps(DETAILS))
    command = ("buyback", "payment-details", "order-2", "--file", str(details), "--enqueue")
    without_key = stack.run(*command, STOCKHOOK_SEALING_KEYS="")
    enqueued = stack.run(*command)
    (waiting,) = await stack.fetch("SELECT * FROM actions")
    consumer = await stack.started("consume", "orders")
    (done,) = await platform.settled("done", seconds=30)

    assert without_key.returncode == 78
    assert "STOCKHOOK_SEALING_KEYS" in without_key.stderr
    assert enqueued.returncode == 0
    assert waiting["is_encrypted"]
    assert CANARY.encode() not in waiting["request"]
    assert platform.buyback.orders["order-2"].has_payment_details
    # Deleted as soon as it is not needed.
    assert done["request"] == b""
    assert CANARY not in consumer.lines()


async def test_each_kind_of_request_can_wait_and_is_sent(platform: Platform) -> None:
    stack, slot = platform.stack, platform.offered()[1]
    for command in (
        ("buyback", "pickup-request", ORDER, "--slot", _window(slot), "--enqueue"),
        ("buyback", "dropoff-request", "order-3", "--enqueue"),
        ("buyback", "shipment-capabilities", "order-4", "--enqueue"),
        ("buyback", "pickup-capabilities", ORDER, "--enqueue"),
    ):
        assert stack.run(*command).returncode == 0
    await stack.started("consume", "orders")
    rows = {row["kind"].split(".")[1]: row for row in await platform.settled(*["done"] * 4, seconds=30)}

    assert platform.buyback.orders[ORDER].slots == (slot,)
    assert platform.buyback.orders["order-3"].delivery == "dropoff"
    assert rows["shipment_capabilities"]["outcome"] == {"pickup_allowed": True, "dropoff_allowed": True}
    assert len(rows["pickup_capabilities"]["outcome"]["slots"]) == len(platform.offered())


def test_a_key_stands_for_one_request(platform: Platform) -> None:
    pickup = ("buyback", "pickup-request", ORDER, "--slot", _window(platform.offered()[1]), "--enqueue")
    keyed = (*pickup, "--key", "k1", "--json")
    first, again = (json.loads(platform.stack.run(*keyed).stdout) for _ in range(2))
    other = platform.stack.run("buyback", "dropoff-request", ORDER, "--enqueue", "--key", "k1")

    assert (first["is_new"], again["is_new"]) == (True, False)
    assert again["action_id"] == first["action_id"]
    assert other.returncode == 1
    assert "the key k1 is that of buyback.pickup_request" in other.stderr


def _window(slot: Slot) -> str:
    return f"{slot.initial_slot.isoformat()}/{slot.final_slot.isoformat()}"


@dataclass
class Settled:
    """Two actions with an unknown outcome: that of ORDER was retried, the other closed."""

    shown: str
    retried: int
    closed: int
    actions: dict[str, dict[str, Any]]
    retried_again: tuple[int, str]
    table: str
    ids: dict[str, str]
    delivery_of_closed: str | None
    metrics: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def settled(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Settled:
    folder = tmp_path_factory.mktemp("settled")
    async with empty_stack(services, folder) as stack, _simulated(stack) as platform:
        for order in (ORDER, "order-2"):
            platform.fail(Kind.ERROR, f"{order}/dropoff-request", times=1)
            assert stack.run("buyback", "dropoff-request", order, "--enqueue").returncode == 0
        worker = await stack.started("consume", "orders")
        await platform.settled("unknown", "unknown")
        listed = json.loads(stack.run("actions", "list", "--state", "unknown", "--json").stdout)
        ids = {row["subject"]: row["action_id"] for row in listed}
        shown = stack.run("actions", "show", ids[ORDER]).stdout
        retried = stack.run("actions", "retry", ids[ORDER]).returncode
        closed = stack.run("actions", "close", ids["order-2"], "--reason", "seen there", "--json").returncode
        actions = {row["subject"]: row for row in await platform.settled("done", "done")}
        again = stack.run("actions", "retry", ids[ORDER])
        return Settled(
            shown,
            retried,
            closed,
            actions,
            retried_again=(again.returncode, again.stderr),
            table=stack.run("actions", "list", COLUMNS="80").stdout,
            ids=ids,
            delivery_of_closed=platform.buyback.orders["order-2"].delivery,
            metrics=(await stack.ops(worker.ops_port, "/metrics")).text,
        )


def test_an_action_is_shown_with_the_reason_for_its_unknown_outcome(settled: Settled) -> None:
    assert "answered 500 Internal Server Error" in settled.shown


def test_an_action_whose_outcome_is_unknown_can_be_retried(settled: Settled) -> None:
    assert settled.retried == 0
    assert settled.actions[ORDER]["outcome"] == {"status": 201}


def test_an_action_whose_outcome_is_unknown_can_be_closed_without_a_request(settled: Settled) -> None:
    assert settled.closed == 0
    assert settled.actions["order-2"]["outcome"]["reason"] == "seen there"
    assert settled.delivery_of_closed is None


def test_an_action_that_is_done_is_not_retried(settled: Settled) -> None:
    assert settled.retried_again == (1, "stockhook: it is done: nothing was changed\n")


def test_the_list_of_actions_fits_a_narrow_terminal(settled: Settled) -> None:
    for text in ("buyback.dropoff_request", settled.ids[ORDER], "seen there"):
        assert text in settled.table


def test_metrics_count_actions_by_result(settled: Settled) -> None:
    for result, number in (("unknown", 2), ("done", 1)):
        line = f'stockhook_actions_total{{kind="buyback.dropoff_request",result="{result}"}} {number}.0'
        assert line in settled.metrics


def test_an_action_or_a_state_that_does_not_exist_is_an_error(stack: Stack) -> None:
    assert stack.run("actions", "show", str(UUID(int=1))).returncode == 1
    assert stack.run("actions", "list", "--state", "lost").returncode == 2


async def test_doctor_reports_that_actions_cannot_be_sent(platform: Platform) -> None:
    good = platform.stack.run("doctor", "--json")
    del platform.stack.environment["STOCKHOOK_BUYBACK_CLIENT_ID"]
    bad = platform.stack.run("doctor", "--json")

    def of_actions(output: str) -> list[tuple[str, str]]:
        return [
            (one["level"], one["what"])
            for one in json.loads(output)["findings"]
            if one["subject"] == "actions"
        ]

    assert [level for level, _ in of_actions(good.stdout)] == ["ok"]
    ((level, what),) = of_actions(bad.stdout)
    assert level == "error"
    assert "STOCKHOOK_BUYBACK_CLIENT_ID" in what


async def test_the_archiver_removes_dead_letters_of_actions_which_the_table_has(platform: Platform) -> None:
    """One failed each retry, and one exceeded the broker's delivery limit."""
    stack = platform.stack
    platform.fail(Kind.NOT_JSON, f"{ORDER}/pickup-capabilities")
    assert stack.run("buyback", "pickup-capabilities", ORDER, "--enqueue").returncode == 0
    await stack.execute(
        "INSERT INTO actions (kind, key, subject, request, published_at) "
        "VALUES ('buyback.dropoff_request', 'k', 'order-2', '{}', now())"
    )
    (given_up,) = await stack.fetch("SELECT action_id FROM actions WHERE key = 'k'")
    letter = message(given_up["action_id"], "buyback.dropoff_request")
    async with stack.broker.connection() as connection:
        await (await connection.channel()).publish(replace(letter, routing_key="stockhook.actions.dead"), 5)
    await stack.started("consume", "orders", STOCKHOOK_KEEP_DEAD_LETTERS="true")
    rows = {row["subject"]: row["outcome"]["reason"] for row in await platform.settled("failed", "failed")}
    await until(lambda: _is_quiet(stack), "no queue holds a message")

    assert rows == {
        ORDER: "the answer is no JSON",
        "order-2": "the broker dead-lettered the action: it was delivered too often",
    }
    assert platform.received("order-2/dropoff-request") == 0


async def test_a_consumer_that_is_stopped_waits_for_the_answer_to_a_request(platform: Platform) -> None:
    stack = platform.stack
    platform.fail(Kind.SLOW, "dropoff-request", times=1, seconds=2)
    assert stack.run("buyback", "dropoff-request", ORDER, "--enqueue").returncode == 0
    stopped = await stack.started("consume", "orders")

    async def is_received() -> bool:
        return platform.buyback.orders[ORDER].delivery is not None

    await until(is_received, "the platform has the request, and has not answered")
    code = await asyncio.to_thread(stopped.stop)
    (row,) = await platform.actions()

    assert (code, row["state"], row["outcome"]) == (0, "done", {"status": 201})
