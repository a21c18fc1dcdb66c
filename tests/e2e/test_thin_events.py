"""Ovoko's events have little more than an id: details are requested from its API."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
import pytest_asyncio

from deploy.local.services import Services
from tests.e2e.test_changes import has_died
from tests.support import events
from tests.support.events import body
from tests.support.stack import Stack, empty_stack, until
from worker.actions.ovoko import NO_SUCH_ENTITY
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
NUMBERS = count()
UNKNOWN_IDS = range(80, 90)
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
    """The simulated Ovoko, and the product that receives its events and calls its API."""

    stack: Stack
    simulation: Simulation
    ovoko: Ovoko

    def has_part(self, part_id: int, **more: Any) -> None:
        self.ovoko.parts[part_id] = Part(id=part_id, status=0, **more)

    def has_return(self, return_id: int, **more: Any) -> None:
        self.ovoko.returns[return_id] = OrderReturn(id=return_id, order_id=70, **more)

    def fail(self, kind: Kind, path: str, **more: Any) -> None:
        self.simulation.faults.add(Fault(kind=kind, path=path, **more))

    def calls(self, path: str = "") -> int:
        """Requests that Ovoko received, with any answer."""
        return sum(str(one["path"]).endswith(path) for one in self.simulation.answered)

    async def send(self, event_type: str, minute: int = 0, **data: object) -> None:
        at = (HOUR_AGO + timedelta(minutes=minute)).isoformat()
        answer = await self.stack.post_ovoko(body(events.ovoko(event_type, at, next(NUMBERS), **data)))
        assert answer.status_code == 200

    async def send_part(self, part_id: int, status: str = "in_warehouse", minute: int = 0) -> None:
        await self.send("part.status.changed", minute, part_id=str(part_id), status=status)

    async def send_return(self, return_id: int, what: str = "created", minute: int = 0) -> None:
        await self.send(f"order.return.{what}", minute, return_id=str(return_id), order_id="70")

    async def actions(self, *subjects: object) -> list[dict[str, Any]]:
        rows = await self.stack.fetch(
            "SELECT *, outcome::text AS outcome FROM actions WHERE $1::text[] = '{}' OR subject = ANY($1) "
            "ORDER BY created_at, subject",
            list(map(str, subjects)),
        )
        return [{**row, "outcome": json.loads(row["outcome"] or "{}")} for row in rows]

    async def settled(self, count: int, *subjects: object, seconds: float = 30) -> list[dict[str, Any]]:
        """Wait until there are this many actions and none is due, and return them."""

        async def are_so() -> Sequence[dict[str, Any]]:
            rows = await self.actions(*subjects)
            over = [row for row in rows if row["state"] not in ("due", "doing")]
            return over if len(over) == len(rows) == count else ()

        actions: list[dict[str, Any]] = await until(are_so, f"{count} actions are settled", seconds)
        return actions


@pytest.fixture
async def marketplace(stack: Stack) -> AsyncIterator[Marketplace]:
    async with simulated(stack) as made:
        yield made


@asynccontextmanager
async def simulated(stack: Stack) -> AsyncIterator[Marketplace]:
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


@dataclass
class Enriched:
    """The results of events of one part, one return, and parts that Ovoko does not know.

    Afterwards the part's price was requested again, and the families were rebuilt.
    """

    actions: list[dict[str, Any]]
    calls: dict[str, int]
    parts: list[dict[str, Any]]
    returns: list[dict[str, Any]]
    items: list[dict[str, Any]]
    requested_again: list[dict[str, Any]]
    rebuilds: list[int]
    explained: Any
    calls_in_total: int
    actions_in_total: int
    log: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def enriched(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Enriched:
    folder = tmp_path_factory.mktemp("thin_events")
    async with empty_stack(services, folder) as stack, simulated(stack) as marketplace:
        return await _enrich(marketplace)


async def _enrich(marketplace: Marketplace) -> Enriched:
    stack = marketplace.stack
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
    await stack.started_apart(STOCKHOOK_OVOKO_CALLS_PER_SECOND="10")
    for status in ("in_warehouse", "reserved", "sold"):
        await marketplace.send_part(77, status)
    for part_id in UNKNOWN_IDS:
        await marketplace.send_part(part_id)
    await marketplace.send_return(456, "updated", 1)
    await marketplace.send_return(456, "created")
    actions = await marketplace.settled(3 + len(UNKNOWN_IDS))
    calls = {path: marketplace.calls(f"/get/{path}") for path in ("part/77", "part/80", "order_return/456")}
    parts = await stack.fetch("SELECT name, price, currency, manufacturer_code, visible_code FROM parts")
    returns = await stack.fetch(
        "SELECT ovoko_status, total_returnable_amount, currency, created_at, update_count FROM returns"
    )
    items = await stack.fetch("SELECT part_id, return_reason, returnable_amount FROM return_items")
    # No event reports a changed price.
    marketplace.has_part(77, name="Front door", price="199.00")
    stack.run("enrich", "ovoko", "parts", "77")
    await marketplace.settled(4 + len(UNKNOWN_IDS))
    return Enriched(
        actions,
        calls,
        parts,
        returns,
        items,
        requested_again=await stack.fetch("SELECT price, currency FROM parts WHERE part_id = '77'"),
        rebuilds=[stack.run("rebuild", family, "--swap").returncode for family in ("inventory", "returns")],
        explained=json.loads(stack.run("explain", "part", "77", "--json").stdout),
        calls_in_total=marketplace.calls(),
        actions_in_total=await stack.count("actions"),
        log="".join(worker.lines() for worker in stack.workers),
    )


def test_several_events_of_a_part_need_one_request(enriched: Enriched) -> None:
    assert enriched.calls["part/77"] == 1


def test_each_event_of_a_return_needs_a_request(enriched: Enriched) -> None:
    assert enriched.calls["order_return/456"] == 2
    details = [action["outcome"]["enrichment"] for action in enriched.actions]
    assert details.count("saved") >= 2


def test_a_part_that_ovoko_does_not_know_is_requested_once(enriched: Enriched) -> None:
    outcomes = [action["outcome"] for action in enriched.actions]

    assert {action["state"] for action in enriched.actions} == {"done"}
    assert outcomes.count(NO_SUCH_ENTITY.details) == len(UNKNOWN_IDS)
    assert enriched.calls["part/80"] == 1


def test_requests_keep_to_the_rate_limit(enriched: Enriched) -> None:
    finished = [action["finished_at"] for action in enriched.actions]

    # Twelve intervals of a tenth of a second; a late end of the first one shortens the total.
    assert max(finished) - min(finished) > timedelta(seconds=1)


def test_details_of_a_known_part_are_saved_and_an_unknown_one_has_none(enriched: Enriched) -> None:
    assert {tuple(row.values()) for row in enriched.parts} == {
        ("Front door", Decimal("275.11"), "EUR", "5123", None),
        (None,) * 5,
    }


def test_details_of_a_return_and_its_items_are_saved(enriched: Enriched) -> None:
    assert [tuple(row.values()) for row in enriched.returns] == [
        ("New", Decimal("64.73"), "EUR", datetime(2026, 3, 1, 8, tzinfo=UTC), 1)
    ]
    assert [tuple(row.values()) for row in enriched.items] == [
        ("77", "Not suitable", Decimal("64.73")),
        (None, "Not suitable", Decimal("64.73")),
    ]


def test_the_details_command_requests_them_again(enriched: Enriched) -> None:
    assert [tuple(row.values()) for row in enriched.requested_again] == [(Decimal("199.00"), None)]


def test_explain_shows_the_details(enriched: Enriched) -> None:
    assert enriched.explained["enrichment"]["price"] == "199.00"


def test_a_rebuild_requests_nothing(enriched: Enriched) -> None:
    assert enriched.rebuilds == [0, 0]
    assert enriched.calls_in_total == enriched.actions_in_total == 4 + len(UNKNOWN_IDS)


def test_the_log_has_no_credentials_and_no_customer(enriched: Enriched) -> None:
    assert not [secret for secret in ("Canary", PASSWORD, USER_TOKEN) if secret in enriched.log]


async def test_faults_of_the_api_delay_details_and_never_the_projection(marketplace: Marketplace) -> None:
    stack = marketplace.stack
    ids = dict(enumerate(Kind, start=101))
    for part_id, kind in ids.items():
        marketplace.has_part(part_id, name=f"Part {part_id}")
        marketplace.fail(kind, f"/part/{part_id}", times=1)
    marketplace.has_part(201)
    marketplace.fail(Kind.WRONG_TYPES, "/part/201")
    await stack.started_apart()
    for part_id in (*ids, 201):
        await marketplace.send_part(part_id, "sold")

    async def are_all_applied() -> bool:
        return await stack.count("parts") == len(ids) + 1

    await until(are_all_applied, "the projection is up to date")
    has_none_of_its_details = await stack.fetch("SELECT 1 FROM parts WHERE part_id = '201' AND name IS NULL")
    rows = {int(row["subject"]): row for row in await marketplace.settled(len(ids) + 1)}
    named = await stack.fetch(
        "SELECT part_id, name FROM parts WHERE enriched_at IS NOT NULL ORDER BY part_id"
    )

    assert has_none_of_its_details
    assert [(rows[part_id]["state"], rows[part_id]["attempts"]) for part_id in ids] == [("done", 2)] * len(
        ids
    )
    assert [tuple(row.values()) for row in named] == [(str(part_id), f"Part {part_id}") for part_id in ids]
    # A lasting fault ends as a dead letter with the reason.
    assert (rows[201]["state"], rows[201]["attempts"]) == ("failed", 4)
    assert "status_code" in rows[201]["outcome"]["reason"]
    assert (await stack.depths())["stockhook.actions.dead"] == 1


async def test_an_older_answer_that_arrives_later_changes_nothing(marketplace: Marketplace) -> None:
    marketplace.has_return(456, status="New", order_return_items=[DOOR, DOOR])
    marketplace.fail(Kind.SLOW, "/order_return/456", times=1, seconds=2)
    await marketplace.stack.started_apart(STOCKHOOK_OVOKO_TIMEOUT="10")
    await marketplace.send_return(456)

    async def is_requested() -> bool:
        return marketplace.calls("/order_return/456") == 1

    await until(is_requested, "the slow answer was requested")
    marketplace.has_return(456, status="Accepted", order_return_items=[DOOR])
    await marketplace.send_return(456, "updated", 1)
    older, newer = await marketplace.settled(2)
    (row,) = await marketplace.stack.fetch("SELECT ovoko_status, enriched_at FROM returns")

    assert older["finished_at"] > newer["finished_at"]
    assert (older["outcome"]["enrichment"], newer["outcome"]["enrichment"]) == (
        "equal or newer details are stored",
        "saved",
    )
    assert row["ovoko_status"] == "Accepted"
    assert row["enriched_at"].isoformat() == newer["outcome"]["enriched_at"]
    assert await marketplace.stack.count("return_items") == 1


async def test_after_a_crash_before_an_answer_is_saved_the_request_is_sent_again(
    marketplace: Marketplace,
) -> None:
    marketplace.has_return(456, order_return_items=[DOOR, DOOR])
    await marketplace.stack.started("ingest")
    dying = marketplace.stack.start("consume", "returns", STOCKHOOK_CRASH_AT="action_performed:1")
    await marketplace.send_return(456)
    await until(lambda: has_died(dying), "the consumer dies when it saves the answer")
    (before,) = await marketplace.actions()
    await marketplace.stack.started("consume", "returns")
    (after,) = await marketplace.settled(1)

    assert (before["state"], after["state"]) == ("due", "done")
    assert after["outcome"]["enrichment"] == "saved"
    assert marketplace.calls("/order_return/456") == 2
    assert await marketplace.stack.count("return_items") == 2
