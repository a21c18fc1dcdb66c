"""Ovoko's events carry an id and little else: the rest is asked for, and its API can only delay that."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from tests.e2e.test_changes import has_died
from tests.stack import Stack, until
from worker.actions.ovoko import UNKNOWN_THERE
from worker.cli.simulate import client_settings
from worker.simulator.faults import Fault, Kind
from worker.simulator.ovoko_api import (
    PASSWORD,
    USER_TOKEN,
    OrderReturn,
    Ovoko,
    Part,
)
from worker.simulator.router import Simulation
from worker.simulator.server import serving

HOUR_AGO = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
DOOR = {
    "part_id": 77,
    "name": "Front door",
    "return_reason": "Not suitable",
    "price": 275.11,
    "returnable_amount": 64.73,
    "currency": "EUR",
}


@dataclass
class Marketplace:
    """The simulated Ovoko, and the product that takes its events and asks its API."""

    stack: Stack
    simulation: Simulation
    ovoko: Ovoko

    def has_part(self, part_id: int, **more: Any) -> None:
        self.ovoko.parts[part_id] = Part(id=part_id, status=0, **more)

    def has_return(self, return_id: int, **more: Any) -> None:
        self.ovoko.returns[return_id] = OrderReturn(id=return_id, order_id=70, **more)

    def fail(self, kind: Kind, path: str, **more: Any) -> None:
        self.simulation.faults.ask(Fault(kind=kind, path=path, **more))

    def calls(self, path: str = "") -> int:
        """Requests that came, however they were answered."""
        return sum(str(one["path"]).endswith(path) for one in self.simulation.answered)

    async def tell(self, event_type: str, minute: int = 0, **data: object) -> None:
        event = {
            "event_id": str(uuid4()),
            "event_type": event_type,
            "timestamp": (HOUR_AGO + timedelta(minutes=minute)).isoformat(),
            "event_data": data,
        }
        assert (await self.stack.post_ovoko(json.dumps(event).encode())).status_code == 200

    async def tell_of_part(self, part_id: int, status: str = "in_warehouse", minute: int = 0) -> None:
        await self.tell("part.status.changed", minute, part_id=str(part_id), status=status)

    async def tell_of_return(self, return_id: int, what: str = "created", minute: int = 0) -> None:
        await self.tell(f"order.return.{what}", minute, return_id=str(return_id), order_id="70")

    async def actions(self, *subjects: object) -> list[dict[str, Any]]:
        rows = await self.stack.fetch(
            "SELECT *, outcome::text AS outcome FROM actions WHERE $1::text[] = '{}' OR subject = ANY($1) "
            "ORDER BY created_at, subject",
            list(map(str, subjects)),
        )
        return [{**row, "outcome": json.loads(row["outcome"] or "{}")} for row in rows]

    async def settled(self, count: int, *subjects: object, seconds: float = 30) -> list[dict[str, Any]]:
        """So many actions, once nothing is due."""

        async def are_so() -> Sequence[dict[str, Any]]:
            rows = await self.actions(*subjects)
            over = [row for row in rows if row["state"] not in ("due", "doing")]
            return over if len(over) == len(rows) == count else ()

        found: list[dict[str, Any]] = await until(are_so, f"{count} actions are over", seconds)
        return found


@pytest.fixture
async def marketplace(stack: Stack) -> AsyncIterator[Marketplace]:
    ovoko = Ovoko()
    simulation = Simulation({"ovoko": ovoko})
    async with serving(simulation) as port:
        ours = client_settings(f"http://127.0.0.1:{port}")
        stack.environment |= {
            f"STOCKHOOK_{name}": value for name, value in ours.items() if name.startswith("OVOKO")
        }
        stack.environment["STOCKHOOK_OVOKO_TIMEOUT"] = "1"
        stack.environment["STOCKHOOK_OVOKO_CALLS_PER_SECOND"] = "100"
        yield Marketplace(stack, simulation, ovoko)
        stack.close()


async def test_what_thin_events_leave_out_is_asked_for(marketplace: Marketplace) -> None:
    stack = marketplace.stack
    unknown = range(80, 90)
    marketplace.has_part(
        77, name="Front door", price="275.11", currency="EUR", manufacturer_code="5123", visible_code=""
    )
    marketplace.has_return(
        456,
        status="New",
        created_at="2026-03-01T10:00:00+02:00",
        currency="EUR",
        total_returnable_amount=64.73,
        order_return_items=[DOOR, {**DOOR, "part_id": None}],
        customer={"first_name": "Canary", "address": "Canary 1"},
    )
    await stack.started("run", STOCKHOOK_OVOKO_CALLS_PER_SECOND="10")
    for status in ("in_warehouse", "reserved", "sold"):
        await marketplace.tell_of_part(77, status)
    for part_id in unknown:
        await marketplace.tell_of_part(part_id)
    await marketplace.tell_of_return(456, "updated", 1)
    await marketplace.tell_of_return(456, "created")
    rows = await marketplace.settled(3 + len(unknown))
    calls = [marketplace.calls(f"/get/{path}") for path in ("part/77", "part/80", "order_return/456")]
    parts = await stack.fetch("SELECT name, price, currency, manufacturer_code, visible_code FROM parts")
    returns = await stack.fetch(
        "SELECT ovoko_status, total_returnable_amount, currency, created_at, update_count FROM returns"
    )
    items = await stack.fetch("SELECT part_id, return_reason, returnable_amount FROM return_items")
    marketplace.has_part(77, name="Front door", price="199.00")
    stack.run("details", "ovoko", "parts", "77")
    await marketplace.settled(4 + len(unknown))
    cheaper = await stack.fetch("SELECT price, currency FROM parts WHERE part_id = '77'")
    rebuilds = [stack.run("rebuild", family, "--swap") for family in ("inventory", "returns")]
    explained = json.loads(stack.run("explain", "part", "77", "--json").stdout)

    assert calls == [1, 1, 2]
    assert {row["state"] for row in rows} == {"done"}
    outcomes = [row["outcome"] for row in rows]
    assert outcomes.count(UNKNOWN_THERE.said) == len(unknown)
    assert [outcome["details"] for outcome in outcomes].count("saved") >= 2
    finished = [row["finished_at"] for row in rows]
    # Twelve intervals of a tenth; a slow end of the first makes it look a little faster.
    assert max(finished) - min(finished) > timedelta(seconds=1)
    assert {tuple(row.values()) for row in parts} == {
        ("Front door", Decimal("275.11"), "EUR", "5123", None),
        (None,) * 5,
    }
    assert [tuple(row.values()) for row in returns] == [
        ("New", Decimal("64.73"), "EUR", datetime(2026, 3, 1, 8, tzinfo=UTC), 1)
    ]
    assert [tuple(row.values()) for row in items] == [
        ("77", "Not suitable", Decimal("64.73")),
        (None, "Not suitable", Decimal("64.73")),
    ]
    # No event tells of another price: somebody had it asked for.
    assert [tuple(row.values()) for row in cheaper] == [(Decimal("199.00"), None)]
    assert explained["details"]["price"] == "199.00"
    # A rebuild goes through the same events, and asks nobody.
    assert [rebuild.returncode for rebuild in rebuilds] == [0, 0]
    assert marketplace.calls() == await stack.count("actions") == 4 + len(unknown)
    said = "".join(worker.lines() for worker in stack.workers)
    assert not [secret for secret in ("Canary", PASSWORD, USER_TOKEN) if secret in said]


async def test_faults_of_the_api_delay_details_and_never_the_projection(marketplace: Marketplace) -> None:
    stack = marketplace.stack
    ids = dict(enumerate(Kind, start=101))
    for part_id, kind in ids.items():
        marketplace.has_part(part_id, name=f"Part {part_id}")
        marketplace.fail(kind, f"/part/{part_id}", times=1)
    marketplace.has_part(201)
    marketplace.fail(Kind.WRONG_TYPES, "/part/201")
    await stack.started("run")
    for part_id in (*ids, 201):
        await marketplace.tell_of_part(part_id, "sold")

    async def are_all_here() -> bool:
        return await stack.count("parts") == len(ids) + 1

    await until(are_all_here, "the projection is up to date", 5)
    has_none_of_its_details = await stack.fetch("SELECT 1 FROM parts WHERE part_id = '201' AND name IS NULL")
    rows = {int(row["subject"]): row for row in await marketplace.settled(len(ids) + 1)}
    named = await stack.fetch("SELECT part_id, name FROM parts WHERE details_at IS NOT NULL ORDER BY part_id")

    assert has_none_of_its_details
    assert [(rows[part_id]["state"], rows[part_id]["attempts"]) for part_id in ids] == [("done", 2)] * len(
        ids
    )
    assert [tuple(row.values()) for row in named] == [(str(part_id), f"Part {part_id}") for part_id in ids]
    # What lasts ends among the dead, with a text that says what is wrong.
    assert (rows[201]["state"], rows[201]["attempts"]) == ("failed", 4)
    assert "status_code" in rows[201]["outcome"]["reason"]
    assert (await stack.depths())["stockhook.actions.dead"] == 1


async def test_the_newest_answer_stands_though_an_older_one_comes_later(marketplace: Marketplace) -> None:
    marketplace.has_return(456, status="New", order_return_items=[DOOR, DOOR])
    marketplace.fail(Kind.SLOW, "/order_return/456", times=1, seconds=2)
    await marketplace.stack.started("run", STOCKHOOK_OVOKO_TIMEOUT="10")
    await marketplace.tell_of_return(456)

    async def is_asked() -> bool:
        return marketplace.calls("/order_return/456") == 1

    await until(is_asked, "the slow answer is on its way")
    marketplace.has_return(456, status="Accepted", order_return_items=[DOOR])
    await marketplace.tell_of_return(456, "updated", 1)
    older, newer = await marketplace.settled(2)
    (row,) = await marketplace.stack.fetch("SELECT ovoko_status, details_at FROM returns")

    assert older["finished_at"] > newer["finished_at"]
    assert (older["outcome"]["details"], newer["outcome"]["details"]) == (
        "equal or newer details are stored",
        "saved",
    )
    assert row["ovoko_status"] == "Accepted"
    assert row["details_at"].isoformat() == newer["outcome"]["details_at"]
    assert await marketplace.stack.count("return_items") == 1


async def test_who_dies_with_an_answer_in_hand_asks_again(marketplace: Marketplace) -> None:
    marketplace.has_return(456, order_return_items=[DOOR, DOOR])
    await marketplace.stack.started("ingest")
    dying = marketplace.stack.start("consume", "returns", STOCKHOOK_CRASH_AT="action_performed:1")
    await marketplace.tell_of_return(456)
    await until(lambda: has_died(dying), "it dies when the answer is kept")
    (before,) = await marketplace.actions()
    await marketplace.stack.started("consume", "returns")
    (after,) = await marketplace.settled(1)

    assert (before["state"], after["state"]) == ("due", "done")
    assert after["outcome"]["details"] == "saved"
    assert marketplace.calls("/order_return/456") == 2
    assert await marketplace.stack.count("return_items") == 2
