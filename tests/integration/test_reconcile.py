"""`stockhook reconcile` between a simulated Ovoko and real tables."""

import asyncio
import json
import subprocess
import tracemalloc
from bisect import bisect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from schemas.registry import Provider
from tests.support.stack import Stack, free_port
from worker.config.settings import Settings
from worker.marketplaces.http import FetchedRow
from worker.marketplaces.ovoko.client import open_ovoko
from worker.postgres.pool import Database
from worker.simulator.faults import Fault
from worker.simulator.faults import Kind as FaultKind
from worker.simulator.marketplace import Request, Response, as_json
from worker.simulator.ovoko_api import (
    PASSWORD,
    USER_TOKEN,
    USERNAME,
    OrderReturn,
    Ovoko,
    Part,
)
from worker.simulator.router import Simulation
from worker.simulator.server import serving
from worker.tools.reconcile.applying import apply
from worker.tools.reconcile.difference import Difference
from worker.tools.reconcile.ovoko import parts
from worker.tools.reconcile.reconciliation import reconcile
from worker.tools.reconcile.subject import Page, Subject

LONG_AGO = "2026-03-01T10:00:00Z"

INSERT_PARTS = """
INSERT INTO parts (part_id, status, occurred_at, event_id, revision)
SELECT number::text, '{status}', '2026-03-01 09:00:00Z', gen_random_uuid(), 1
FROM generate_series({first}, {last}) AS number
"""

INSERT_RETURN = """
INSERT INTO returns (return_id, order_id, opened_at, updated_at, update_count, revision)
VALUES ('{0}', '{1}', {2}, {3}, 0, 1)
"""


class PartWithFields(Part):
    """A part with invalid values."""

    status: Any
    external_id: Any = None


@dataclass(slots=True)
class Moving:
    """An Ovoko with one event immediately before or after a request for a path."""

    ovoko: Ovoko
    before: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    after: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)

    async def handle(self, request: Request) -> Response:
        if request.path in self.before:
            await self.before.pop(request.path)()
        response = await self.ovoko.handle(request)
        if request.path in self.after:
            await self.after.pop(request.path)()
        return response


@dataclass(slots=True)
class World:
    stack: Stack
    ovoko: Ovoko
    moving: Moving
    simulation: Simulation
    url: str

    @property
    def credentials(self) -> dict[str, str]:
        return {
            "ovoko_api_url": f"{self.url}/ovoko",
            "ovoko_username": USERNAME,
            "ovoko_password": PASSWORD,
            "ovoko_user_token": USER_TOKEN,
            "ovoko_calls_per_second": "1000",
        }

    async def reconcile(self, *arguments: str, **overrides: str) -> subprocess.CompletedProcess[str]:
        credentials = {f"STOCKHOOK_{name.upper()}": value for name, value in self.credentials.items()}
        # The server runs on this event loop.
        return await asyncio.to_thread(
            self.stack.run, "reconcile", "ovoko", *arguments, **(credentials | overrides)
        )

    async def report(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Its exit code and its JSON."""
        done = await self.reconcile(*arguments, "--json")
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    async def has(self, status: str, first: int, last: int | None = None) -> None:
        """Insert our rows of parts, as of 9:00."""
        await self.stack.execute(INSERT_PARTS.format(status=status, first=first, last=last or first))

    def lists(self, status: int | str, first: int, last: int | None = None, at: str = LONG_AGO) -> None:
        for number in range(first, (last or first) + 1):
            self.ovoko.parts[number] = Part(id=number, status=status, updated_at=at)


@pytest.fixture
async def world(stack: Stack) -> AsyncIterator[World]:
    ovoko = Ovoko()
    moving = Moving(ovoko)
    async with simulated(moving) as (simulation, url):
        yield World(stack, ovoko, moving, simulation, url)


@asynccontextmanager
async def simulated(marketplace: Any) -> AsyncIterator[tuple[Simulation, str]]:
    simulation = Simulation({"ovoko": marketplace})
    async with serving(simulation) as port:
        yield simulation, f"http://127.0.0.1:{port}"


async def test_the_same_on_both_sides_is_no_drift(world: World) -> None:
    await world.has("in_warehouse", 1, 150)
    await world.has("sold_in_allegro", 151, 250)
    world.lists(0, 1, 150)
    world.lists(2, 151, 250)

    code, report = await world.report("parts")

    del report["seconds"]
    assert code == 0
    assert report == {
        "marketplace": "ovoko",
        "what": "parts",
        "since": None,
        "listed": 250,
        "total_count": 250,
        "pages": 3,
        "listed_twice": 0,
        "not_listed_at_least": 0,
        "unreadable_rows": 0,
        "unreadable": [],
        "odd_fields": {},
        "here": 250,
        "looked_at_again": 0,
        "unchecked": 0,
        "unanswered": [],
        "differences": [],
        "drift": 0,
        "is_conclusive": True,
        "applied": None,
    }


async def test_each_kind_of_drift_of_parts_is_reported(world: World) -> None:
    await world.has("in_warehouse", 1, 120)
    await world.has("in_warehouse", 201)
    await world.has("returned", 202)
    world.lists(0, 1, 120)
    world.lists(2, 201)
    world.lists("reserved", 203)

    code, report = await world.report("parts")

    ours_at, theirs_at = "2026-03-01T09:00:00+00:00", "2026-03-01T10:00:00+00:00"
    common = {"column": "status", "may_be_under_way": False}
    assert code == 1
    assert (report["drift"], report["is_conclusive"]) == (3, True)
    assert report["differences"] == [
        {
            "id": "201",
            "kind": "different",
            "here": "in_warehouse",
            "there": "2 (sold)",
            "here_at": ours_at,
            "there_at": theirs_at,
            **common,
        },
        {
            "id": "202",
            "kind": "only_here",
            "here": "returned",
            "there": None,
            "here_at": ours_at,
            "there_at": None,
            **common,
        },
        {
            "id": "203",
            "kind": "only_there",
            "here": None,
            "there": "reserved",
            "here_at": None,
            "there_at": theirs_at,
            **common,
        },
    ]


async def test_each_kind_of_drift_of_returns_is_reported(world: World) -> None:
    at = "'2026-03-01 09:00:00Z'"
    await world.stack.execute(INSERT_RETURN.format(1, 10, at, "NULL"))
    await world.stack.execute(INSERT_RETURN.format(2, 20, at, "NULL"))
    await world.stack.execute(INSERT_RETURN.format(3, 30, "NULL", at))
    await world.stack.execute(INSERT_RETURN.format(4, 40, at, "NULL"))
    for return_id, order_id in ((1, 10), (2, 21), (3, 30), *((number, 50) for number in range(50, 75))):
        world.ovoko.returns[return_id] = OrderReturn(id=return_id, order_id=order_id, created_at=LONG_AGO)

    code, report = await world.report("returns")

    different = [
        (one["id"], one["kind"], one["column"], one["here"], one["there"])
        for one in report["differences"][:4]
    ]
    assert code == 1
    assert report["listed"] == 28
    assert len(report["differences"]) == 3 + 25
    assert different == [
        ("2", "different", "order_id", "20", "21"),
        ("3", "different", "opened_at", None, "2026-03-01T10:00:00+00:00"),
        ("4", "only_here", "order_id", "40", None),
        ("50", "only_there", "status", None, "New"),
    ]


async def test_the_default_output_is_a_table_with_an_explanation(world: World) -> None:
    await world.has("in_warehouse", 13)
    world.lists("sold\x1b[31m[/b]", 13)

    done = await world.reconcile("parts", COLUMNS="160")

    assert done.returncode == 1
    assert "in_warehouse" in done.stdout
    assert r"sold\x1b[31m[/b]" in done.stdout
    assert "1 of 1 listed there, on 1 pages; 1 rows here; 1 seemed different, 1 differ" in done.stdout
    assert "\x1b" not in done.stdout


async def test_a_part_that_slips_between_two_pages_is_not_taken_for_missing(world: World) -> None:
    await world.has("in_warehouse", 1, 19)
    await world.has("sold", 20)
    await world.has("in_warehouse", 21, 150)
    world.lists(0, 1, 50, at="2026-03-01T09:00:00Z")
    world.lists(0, 51, 150)

    async def sell() -> None:
        # The newest are listed first, so it moves from the second page to the first, which was already read.
        world.lists(2, 20, at="2026-03-01T12:00:00Z")

    world.moving.after["/v2/get/parts"] = sell
    code, report = await world.report("parts")

    assert (code, report["differences"]) == (0, [])
    assert (report["listed"], report["listed_twice"], report["not_listed_at_least"]) == (150, 1, 0)
    assert report["pages"] == 4


async def test_a_row_that_moves_to_another_page_twice_makes_the_comparison_inconclusive(world: World) -> None:
    class CountingOneMore(Ovoko):
        async def handle(self, request: Request) -> Response:
            document = orjson.loads((await world.ovoko.handle(request)).body)
            document["pagination"]["total_count"] += 1
            return as_json(200, document)

    await world.has("in_warehouse", 1, 9)
    world.lists(0, 1, 9)
    world.simulation.marketplaces = {"ovoko": CountingOneMore()}
    code, report = await world.report("parts")
    done = await world.reconcile("parts")

    assert (code, report["differences"], report["is_conclusive"]) == (1, [], False)
    assert report["not_listed_at_least"] == 1
    assert "1 or more were on no page in two readings" in " ".join(done.stdout.split())


async def test_a_part_whose_event_comes_meanwhile_is_not_reported(world: World) -> None:
    await world.has("in_warehouse", 1)
    world.lists(2, 1)

    async def event_comes() -> None:
        await world.stack.execute("UPDATE parts SET status = 'sold'")

    world.moving.before["/get/part/1"] = event_comes
    code, report = await world.report("parts")

    assert (code, report["looked_at_again"], report["differences"]) == (0, 1, [])


async def test_a_change_of_just_now_is_shown_but_is_no_drift_yet(world: World) -> None:
    await world.has("in_warehouse", 1)
    world.lists(2, 1, at=datetime.now(UTC).isoformat())

    code, report = await world.report("parts")
    done = await world.reconcile("parts")

    assert (code, report["drift"]) == (0, 0)
    assert [(one["id"], one["may_be_under_way"]) for one in report["differences"]] == [("1", True)]
    assert "1 changed recently, here or there" in done.stdout


async def test_at_most_the_requested_number_is_checked_again(world: World) -> None:
    await world.has("in_warehouse", 1, 3)
    world.lists(2, 2, 3)

    code, report = await world.report("parts", "--most", "2")

    assert code == 1
    assert [(one["id"], one["kind"]) for one in report["differences"]] == [
        ("2", "different"),
        ("3", "different"),
    ]
    assert (report["looked_at_again"], report["unchecked"], report["is_conclusive"]) == (2, 1, False)


async def test_since_excludes_rows_that_are_older_on_both_sides(world: World) -> None:
    await world.has("in_warehouse", 1, 3)
    await world.stack.execute("UPDATE parts SET occurred_at = '2026-02-01Z' WHERE part_id <> '1'")
    world.lists(2, 1, at="2026-02-01T10:00:00Z")
    world.lists(2, 3)

    code, report = await world.report("parts", "--since", "2026-03-01")

    # The first is older there, so it is not listed but fetched by its id; the second is older here.
    assert code == 1
    assert [(one["id"], one["kind"]) for one in report["differences"]] == [
        ("1", "different"),
        ("3", "different"),
    ]
    assert (report["here"], report["listed"], report["since"]) == (1, 1, "2026-03-01T00:00:00+00:00")


async def test_rows_that_cannot_be_read_are_reported_and_do_not_end_a_reconciliation(world: World) -> None:
    await world.has("in_warehouse", 11, 15)
    world.lists(2, 11)
    world.lists(0, 15)
    for number, status in ((12, []), (13, {}), (14, None)):
        world.ovoko.parts[number] = PartWithFields(id=number, status=status, updated_at=LONG_AGO)

    code, report = await world.report("parts")

    assert code == 1
    assert [one["id"] for one in report["differences"]] == ["11"]
    assert report["unreadable_rows"] == 3
    assert report["unreadable"] == [f"page 1, row {place}: status: string_type" for place in (1, 2, 3)]
    assert [one["id"] for one in report["unanswered"]] == ["12", "13", "14"]
    assert (report["not_listed_at_least"], report["is_conclusive"]) == (0, False)


async def test_an_unreadable_optional_field_of_a_listed_part_counts_as_absent_and_is_reported(
    world: World,
) -> None:
    await world.has("in_warehouse", 11, 13)
    for number, value in ((11, False), (12, []), (13, "SKU")):
        world.ovoko.parts[number] = PartWithFields(
            id=number, status=0, external_id=value, updated_at=LONG_AGO
        )

    code, report = await world.report("parts")

    assert (code, report["listed"], report["drift"]) == (0, 3, 0)
    assert report["odd_fields"] == {"external_id": 2}


async def test_an_answer_that_is_missing_for_one_part_spoils_no_other(world: World) -> None:
    await world.has("in_warehouse", 11, 12)
    world.lists(2, 11, 12)
    world.simulation.faults.add(Fault(kind=FaultKind.ERROR, path="/get/part/11"))

    code, report = await world.report("parts")

    assert code == 1
    assert [one["id"] for one in report["differences"]] == ["12"]
    assert report["unanswered"] == [{"id": "11", "reason": "HTTP 500"}]
    assert report["is_conclusive"] is False


async def test_several_missing_answers_end_it(world: World) -> None:
    await world.has("in_warehouse", 11, 15)
    world.lists(2, 11, 15)
    world.simulation.faults.add(Fault(kind=FaultKind.WRONG_TYPES, path="/get/part/"))

    done = await world.reconcile("parts")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("stockhook: Ovoko's API: HTTP 200, status_code: string_type")


@pytest.mark.parametrize(
    ("rows", "total_count", "message"),
    [
        ([{"id": 1, "status": 0}], 10**9, "page 4 of the list shows nothing new, as those before it"),
        ([], 7, "the list says that it holds 7, and shows none"),
    ],
)
async def test_an_inconsistent_list_is_an_error(
    world: World, rows: list[object], total_count: int, message: str
) -> None:
    class Same(Ovoko):
        async def handle(self, request: Request) -> Response:
            document = {"data": rows, "pagination": {"total_count": total_count}, "status_code": "R200"}
            return as_json(200, document)

    await world.has("in_warehouse", 1, 7)
    world.simulation.marketplaces = {"ovoko": Same()}
    done = await world.reconcile("parts")

    assert (done.returncode, done.stderr) == (1, f"stockhook: Ovoko's API: {message}\n")


async def test_nothing_is_taken_over_from_a_list_that_shows_nothing(world: World) -> None:
    await world.has("in_warehouse", 1)

    done = await world.reconcile("parts", "--apply", "--yes")

    assert done.returncode == 1
    assert "only here" in done.stdout
    assert (
        done.stderr
        == "stockhook: Ovoko's API: the list is empty, so nothing was applied: check the account\n"
    )
    assert await world.stack.depths() == {}


async def test_events_that_no_consumer_applied_are_reported_as_waiting_and_keep_their_ids(
    world: World,
) -> None:
    world.lists(1, 13)
    settings = Settings(**{**world.stack.settings.model_dump(), **world.credentials})
    database = Database(settings.database_url.get_secret_value(), 1, "test")
    async with open_ovoko(settings) as api:
        subject = parts(api, database)
        report = await reconcile(subject, since=None, most=1, report=unreported)
        twice = [await apply(subject, report, settings, database, unreported, patience=0.1) for _ in range(2)]
    await database.close()
    sent = [await world.stack.get("stockhook.inventory") for _ in range(3)]

    assert [(done.sent, done.applied, done.is_whole) for done in twice] == [(1, 0, False)] * 2
    assert sent[0] is not None
    assert sent[1] is not None
    assert sent[2] is None
    assert sent[0].headers["x-event-id"] == sent[1].headers["x-event-id"]
    assert json.loads(sent[0].body)["event_data"]["status"] == "reserved"


async def test_returns_whose_list_ignores_the_page_end(world: World) -> None:
    class OnePage(Ovoko):
        async def handle(self, request: Request) -> Response:
            same = Request(request.method, request.path, {}, request.headers, request.body)
            return await world.ovoko.handle(same)

    world.ovoko.returns[1] = OrderReturn(id=1, order_id=10, created_at=LONG_AGO)
    await world.stack.execute(INSERT_RETURN.format(1, 10, "'2026-03-01 09:00:00Z'", "NULL"))
    world.simulation.marketplaces = {"ovoko": OnePage()}
    code, report = await world.report("returns")

    assert (code, report["listed"], report["pages"]) == (0, 1, 2)


async def test_how_it_ends_when_it_cannot_be_done(world: World) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    unreachable = await world.reconcile("parts", STOCKHOOK_OVOKO_API_URL=closed)
    refused = await world.reconcile("parts", STOCKHOOK_OVOKO_PASSWORD="another-password")
    without = await asyncio.to_thread(world.stack.run, "reconcile", "ovoko", "parts")
    wrong = await world.reconcile("parts", "--most", "0")

    codes = [done.returncode for done in (unreachable, refused, without, wrong)]
    assert codes == [69, 1, 78, 2]
    assert "Ovoko's API: cannot connect" in unreachable.stderr
    assert "R401 (Wrong username, password or user token)" in refused.stderr
    assert "STOCKHOOK_OVOKO_USERNAME, STOCKHOOK_OVOKO_PASSWORD, STOCKHOOK_OVOKO_USER_TOKEN" in without.stderr
    assert "another-password" not in refused.stderr


def unreported(name: str, done: int, total: int | None) -> None:
    """Ignore the progress."""


@dataclass(slots=True)
class Many:
    """A marketplace and tables with equal rows, generated on demand."""

    ids: list[str]

    async def page(self, number: int, since: datetime | None) -> Page[str]:
        page = self.ids[(number - 1) * 100 : number * 100]
        return Page(dict.fromkeys(page, ""), len(self.ids), (), Counter())

    async def one(self, entity_id: str) -> FetchedRow[str]:
        raise AssertionError("nothing differs")

    async def ours(self, entity_ids: list[str]) -> dict[str, str]:
        return dict.fromkeys(entity_ids, "")

    async def our_ids(self, after: str, since: datetime | None, most: int) -> list[str]:
        first = bisect(self.ids, after)
        return self.ids[first : first + most]

    def compare(self, here: str | None, there: str | None) -> Difference | None:
        return None

    def observed(self, here: str | None, there: str | None, requested_at: datetime) -> bytes:
        raise AssertionError("nothing differs")


async def test_memory_does_not_grow_with_the_number_of_compared_rows() -> None:
    many = Many([f"{number:08}" for number in range(40_000)])
    subject = Subject(
        Provider.OVOKO, many.page, many.one, many.ours, many.our_ids, many.compare, many.observed
    )
    tracemalloc.start()
    try:
        report = await reconcile(subject, since=None, most=1000, report=unreported)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (report.listing.entities, report.ours, report.doubts) == (40_000, 40_000, 0)
    assert peak < 1_000_000
