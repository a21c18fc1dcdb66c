"""Webhooks and answers of the simulated marketplaces agree after any steps."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from cryptography.fernet import Fernet, MultiFernet
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.buybacks.status import in_one_spelling
from consumers.family import Event, Finding
from consumers.registry import FAMILIES, FAMILY_OF
from schemas.events import parse, read_json, routing_key
from schemas.identity import content_id, event_id
from schemas.ovoko import unwrapped
from schemas.ovoko_api import ListedPart
from worker.intake.intake import body_to_store
from worker.simulator.buyback_api import SELLER_ID, SimulatedBuyback
from worker.simulator.buyback_orders import Step
from worker.simulator.lifecycle import GeneratedEvent
from worker.simulator.marketplace import Request, Response
from worker.simulator.ovoko_api import (
    PASSWORD,
    USER_TOKEN,
    USERNAME,
    Ovoko,
)
from worker.simulator.ovoko_stock import OrderStep, ReturnStep

BEGINNING = datetime(2026, 3, 1, 12, tzinfo=UTC)
ENCRYPTOR = MultiFernet([Fernet(Fernet.generate_key())])
ORDERS = ("a", "b")
PARTS = (11, 12)
DETAILS = {
    "firstName": "Ana",
    "lastName": "Silva",
    "bankAccount": {
        "accountNumber": "PT50",
        "financialInstitutionIdentifier": "BCOMPTPL",
        "beneficiaryName": "Ana Silva",
    },
    "billingAddress": {"firstLine": "Street 1", "zipCode": "1000", "city": "Lisboa", "country": "PT"},
}
STATUSES = (
    "in_warehouse",
    "reserved",
    "sold",
    "sold_in_ebay",
    "returned",
    "written_off",
    "unknown_stock_status",
)


@dataclass
class World:
    """Both marketplaces with a private clock, and the projections of their webhooks."""

    at: datetime = BEGINNING
    events: list[GeneratedEvent] = field(default_factory=list)
    rows: dict[tuple[str, Any], Any] = field(default_factory=dict)
    findings: set[Finding] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.simulated = SimulatedBuyback((), clock=self.clock, send_events=self.events.extend, places=1)
        self.simulated.tokens["token"] = datetime.max.replace(tzinfo=UTC)
        self.ovoko = Ovoko(clock=self.clock, send_events=self.events.extend)

    def clock(self) -> datetime:
        return self.at

    def buyback(self, method: str, path: str, document: object = None) -> Response:
        headers = {"authorization": "Bearer token", "x-real-ip": "127.0.0.1"}
        return self._request(self.simulated, method, path, orjson.dumps(document), headers)

    def seller(self, method: str, order_id: str, endpoint: str, document: object = None) -> Response:
        return self.buyback(method, f"/v2/sellers/{SELLER_ID}/orders/{order_id}/{endpoint}", document)

    def control_ovoko(self, path: str, document: object = None) -> Response:
        return self._request(self.ovoko, "POST", f"/control/{path}", orjson.dumps(document), {})

    def rows_of_ovoko(self, path: str) -> Sequence[dict[str, Any]]:
        form = f"username={USERNAME}&password={PASSWORD}&user_token={USER_TOKEN}".encode()
        answer = orjson.loads(self._request(self.ovoko, "POST", path, form, {}).body)
        rows: Sequence[dict[str, Any]] = answer["data" if "data" in answer else "list"]
        return rows

    def _request(
        self,
        marketplace: SimulatedBuyback | Ovoko,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
    ) -> Response:
        """A refused request sends no webhook."""
        before = len(self.events)
        request = Request(method, path, {"limit": "100"}, headers, body)
        response = asyncio.run(marketplace.handle(request))
        assert response.status < 400 or len(self.events) == before
        return response

    def slots(self, order_id: str) -> list[dict[str, str]]:
        response = self.seller("GET", order_id, "pickup-capabilities")
        offered: list[dict[str, str]] = orjson.loads(response.body).get("slots", [])
        return offered

    def project(self) -> None:
        for event in self.events:
            body = body_to_store(event.provider, event.body, ENCRYPTOR)
            payload = parse(event.provider, body)
            document = unwrapped(read_json(body))
            known_as = event_id(
                event.provider, document.get("event_id"), content_id(event.event_type, document)
            )
            self._apply(FAMILY_OF[routing_key(event.provider, event.event_type)], payload, known_as)

    def _apply(self, name: str, payload: Any, known_as: UUID) -> None:
        family = FAMILIES[name]
        key = name, family.key(payload)
        decision = family.decide(self.rows.get(key), Event(known_as, self.at, payload))
        self.rows[key] = decision.state
        self.findings = (self.findings | set(decision.findings)) - set(decision.withdrawn)

    def known(self, name: str) -> Iterator[tuple[Any, Any]]:
        return ((key, row) for (family, key), row in self.rows.items() if family == name)


def happen(world: World, move: tuple[str, ...]) -> None:
    match move:
        case "create", order_id:
            world.buyback("POST", "/control/orders", {"id": order_id})
        case "step", order_id, step:
            world.buyback("POST", f"/control/orders/{order_id}/{step}")
        case "pickup", order_id:
            world.seller("POST", order_id, "pickup-request", {"slots": world.slots(order_id)[:1]})
        case "dropoff", order_id:
            world.seller("POST", order_id, "dropoff-request", {})
        case "pay", order_id:
            world.seller("POST", order_id, "payment-details", DETAILS)
        case "part", part_id, status:
            world.control_ovoko(f"parts/{part_id}/{status}")
        case "order", *part_ids:
            world.control_ovoko("orders", {"part_ids": [int(part_id) for part_id in part_ids]})
        case what, number, step:
            world.control_ovoko(f"{what}/{number}/{step}")
        case _:
            raise AssertionError(move)


TRADE_IN_MOVES = st.one_of(
    st.tuples(st.sampled_from(["create", "pickup", "dropoff", "pay"]), st.sampled_from(ORDERS)),
    st.tuples(st.just("step"), st.sampled_from(ORDERS), st.sampled_from(Step)),
)
OVOKO_MOVES = st.one_of(
    st.tuples(st.just("part"), st.sampled_from([str(part) for part in PARTS]), st.sampled_from(STATUSES)),
    st.sampled_from([("order", "11"), ("order", "11", "12")]),
    st.tuples(st.just("orders"), st.sampled_from(["1000", "1001"]), st.sampled_from(OrderStep)),
    st.tuples(st.just("returns"), st.sampled_from(["6000", "6001"]), st.sampled_from(ReturnStep)),
)
MILLISECONDS = st.integers(0, 100_000_000)


def play(moves: Sequence[tuple[tuple[str, ...], int]]) -> World:
    world = World()
    for move, milliseconds in moves:
        happen(world, move)
        world.at += timedelta(milliseconds=milliseconds)
    world.project()
    return world


@settings(max_examples=60)
@given(st.lists(st.tuples(TRADE_IN_MOVES, MILLISECONDS), max_size=40))
def test_buyback_orders_are_equal_on_both_sides(moves: list[tuple[tuple[str, ...], int]]) -> None:
    world = play([(("create", order_id), 0) for order_id in ORDERS] + moves)
    there = {order_id: world.simulated.orders[order_id] for order_id in ORDERS}

    assert world.findings == set()
    for order_id, known in world.known("buybacks"):
        order = there[order_id]
        assert known.order.values["status"] == in_one_spelling(order.status)
        assert {item_id: item.values["status"] for item_id, item in known.items.items()} == {
            item["id"]: in_one_spelling(status)
            for item, status in zip(order.subject.items, order.statuses, strict=True)
        }
        if order.slot is not None:
            shipment = known.shipments[order.shipment["trackingCode"]]
            assert shipment.values["pickup_starts_at"] == order.slot.initial_slot
    booked = Counter(order.slot for order in there.values() if order.slot is not None)
    assert max(booked.values(), default=0) <= 1


@settings(max_examples=60)
@given(st.lists(st.tuples(OVOKO_MOVES, MILLISECONDS), max_size=40))
def test_parts_orders_and_returns_are_equal_on_both_sides(
    moves: list[tuple[tuple[str, ...], int]],
) -> None:
    world = play([(("part", str(part_id), "in_warehouse"), 0) for part_id in PARTS] + moves)
    parts = {row["id"]: ListedPart.model_validate(row) for row in world.rows_of_ovoko("/v2/get/parts")}
    returns = {str(row["id"]): row for row in world.rows_of_ovoko("/get/order_returns")}
    orders = {str(order_id): order for order_id, order in world.ovoko.stock.orders.items()}

    assert world.findings == set()
    assert {int(part_id) for part_id, _ in world.known("inventory")} == set(parts)
    for part_id, part in world.known("inventory"):
        assert parts[int(part_id)].agrees_with(part.latest.status)
    assert {key: (known.order_id, known.opened_at.isoformat()) for key, known in world.known("returns")} == {
        key: (str(row["order_id"]), row["created_at"]) for key, row in returns.items()
    }
    assert {key: known.cancelled_at is not None for key, known in world.known("orders")} == {
        key: order.status == "Cancelled" for key, order in orders.items()
    }


WHOLE_LIFE = (
    ("create", "a"),
    ("step", "a", "remind"),
    ("pickup", "a"),
    ("step", "a", "remind"),
    ("step", "a", "miss"),
    ("pickup", "a"),
    ("step", "a", "collect"),
    ("step", "a", "receive"),
    ("pay", "a"),
    ("step", "a", "pass"),
    ("step", "a", "pass"),
    ("step", "a", "pass"),
)


def test_an_order_comes_from_its_creation_to_its_payment() -> None:
    world = World()
    world.buyback("POST", "/control/orders", {"id": "a", "paymentType": "Cash"})
    for move in WHOLE_LIFE:
        happen(world, move)
    world.project()
    [known] = [known for _, known in world.known("buybacks")]

    assert known.order.values["status"] == "closed"
    assert {shipment.values["is_reschedule"] for shipment in known.shipments.values()} == {False, True}
    assert known.order.values["payment_details"] is not None
    assert world.simulated.orders["a"].as_json()["status"] == "Closed"


def test_a_submission_sends_webhooks_of_types_that_no_family_takes() -> None:
    world = World()
    response = world.buyback("POST", "/control/submissions")
    types = [event.event_type for event in world.events]

    assert response.status == 201
    assert types == orjson.loads(response.body)["events"]
    assert types == ["SubmissionCreatedEvent", "OfferCreatedEvent"]
    assert not {f"buyback.{event_type}" for event_type in types} & FAMILY_OF.keys()


def test_a_missed_pickup_frees_its_slot() -> None:
    world = World()
    for order_id in ORDERS:
        happen(world, ("create", order_id))
    first = world.slots("a")[0]
    happen(world, ("pickup", "a"))
    while_booked = world.slots("b")
    happen(world, ("step", "a", "miss"))

    assert first not in while_booked
    assert world.slots("b")[0] == first


@pytest.mark.parametrize(
    ("order_id", "step", "status", "message"),
    [
        ("a", "collect", 409, "collect is not possible for an order with status Created"),
        ("b", "miss", 404, "no such order"),
        ("a", "celebrate", 404, "miss"),
    ],
)
def test_an_impossible_step_is_one_sentence(order_id: str, step: str, status: int, message: str) -> None:
    world = World()
    happen(world, ("create", "a"))
    response = world.buyback("POST", f"/control/orders/{order_id}/{step}")

    assert response.status == status
    assert message in orjson.loads(response.body)["title"]


@pytest.mark.parametrize(
    ("path", "document", "status", "message"),
    [
        ("parts/11/reserved", None, 409, "part 11 is sold"),
        ("parts/11/melted", None, 404, "no such status: melted"),
        ("orders", {"part_ids": [13]}, 404, "no such part: 13"),
        ("orders", {"part_ids": []}, 409, "at least one part"),
        ("orders", {"parts": [11]}, 400, "part_ids"),
        ("orders", {"part_ids": [11]}, 409, "part 11 is not in stock"),
        ("orders/7/ship", None, 404, "no such order: 7"),
        ("returns/7/receive", None, 404, "no such return"),
    ],
)
def test_an_impossible_step_at_ovoko_is_one_sentence(
    path: str, document: object, status: int, message: str
) -> None:
    world = World()
    happen(world, ("part", "11", "sold"))
    response = world.control_ovoko(path, document)

    assert response.status == status
    assert message in orjson.loads(response.body)["title"]
