"""What is asked of a marketplace: once for each key, whoever dies meanwhile, or known to be in doubt."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from schemas import examples
from tests.e2e.test_changes import has_died
from tests.e2e.test_crash_points import ACTION_POINTS
from tests.stack import BUYBACK_TOKEN, Stack, until
from worker.simulate.buyback import TradeIn
from worker.simulate.command import client_settings
from worker.simulate.faults import Fault, Kind
from worker.simulate.server import serving
from worker.simulate.simulation import Simulation

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

    first = platform.trade_in.offered()[0].model_dump(mode="json")
    assert row["kind"] == "buyback.rerequest_pickup"
    assert (row["subject"], row["attempts"]) == (ORDER, 1)
    assert row["outcome"] == {"status": 201, "slots": [first]}
    assert platform.requested() == 1
    assert platform.trade_in.orders[ORDER].slots == (platform.trade_in.offered()[0],)

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
