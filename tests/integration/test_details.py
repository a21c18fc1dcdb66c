"""Fetched details are stored beside the state of events, and neither overwrites the other."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import permutations
from typing import Any

from consumers.details import SaveResult
from consumers.inventory import details as of_part
from consumers.inventory.details import PartDetails
from consumers.returns import details as of_return
from consumers.returns.details import ReturnDetails, ReturnItem
from tests.support.applied_events import apply, database_of, item
from tests.support.events import ovoko
from tests.support.stack import Stack
from worker.pipeline.decode import Decoded

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DOOR = ReturnItem("77", "Front door", "Not suitable", Decimal("275.11"), Decimal("64.730000000000004"), "EUR")
LAMP = ReturnItem(None, "[/red]Lamp\x1b", None, None, Decimal("1E+2"), None)
RETURN = ReturnDetails(NOON, "New", NOON - timedelta(days=2), Decimal("294.950"), "EUR", (DOOR, LAMP))
PART = PartDetails(NOON, "Front door", Decimal("275.11"), "EUR", "5123", None, "A-1")

PART_COLUMNS = "enriched_at, name, price, currency, manufacturer_code, visible_code, other_code"


def event(event_type: str, minute: int, **data: object) -> Decoded:
    """An event in the hour before NOON."""
    return item(ovoko(event_type, 60 * (minute - 60), **data))


def part(status: str, minute: int, part_id: str = "77") -> Decoded:
    return event("part.status.changed", minute, part_id=part_id, status=status)


def opened(minute: int) -> Decoded:
    return event("order.return.created", minute, return_id="456", order_id="70")


async def save_part(stack: Stack, details: PartDetails, part_id: str = "77") -> SaveResult:
    async with database_of(stack) as database, database.transaction() as connection:
        return await of_part.save_details(connection, part_id, details)


async def save_return(stack: Stack, details: ReturnDetails, return_id: str = "456") -> SaveResult:
    async with database_of(stack) as database, database.transaction() as connection:
        return await of_return.save_details(connection, return_id, details)


def rebuilt(stack: Stack, family: str, *arguments: str) -> Any:
    result = stack.run("rebuild", family, *arguments, "--json")
    assert result.stdout, result.stderr
    return json.loads(result.stdout)


async def test_any_order_of_answers_leaves_the_same_rows(stack: Stack) -> None:
    await apply(stack, "returns", [opened(1)])
    later = NOON + timedelta(seconds=1)
    answers = (
        RETURN,
        replace(RETURN, enriched_at=later, items=(LAMP,)),
        # At the same instant as the previous one.
        replace(RETURN, enriched_at=later, ovoko_status="Accepted", items=(DOOR, DOOR, LAMP)),
        replace(RETURN, enriched_at=NOON - timedelta(days=1), items=()),
    )
    left = set()
    async with database_of(stack) as database:
        for order in permutations(answers):
            async with database.transaction() as connection:
                await connection.execute("UPDATE returns SET enriched_at = NULL")
                for details in (*order, order[0]):
                    await of_return.save_details(connection, "456", details)
                left.add(await of_return.load_details(connection, "456"))

    assert len(left) == 1
    (known,) = left
    assert known is not None
    assert known.enriched_at == later
    assert known in answers


async def test_answers_and_events_do_not_overwrite_each_other(stack: Stack) -> None:
    await apply(stack, "inventory", [part("sold", 1)])
    await apply(stack, "returns", [opened(1)])

    results = [await save_part(stack, PART), await save_part(stack, PART), await save_return(stack, RETURN)]
    await apply(stack, "inventory", [part("returned", 5)], [part("reserved", 0)])
    await apply(stack, "returns", [event("order.return.updated", 5, return_id="456", order_id="70")])

    rows = await stack.fetch(f"SELECT status, {PART_COLUMNS} FROM parts")
    returns = await stack.fetch(
        "SELECT update_count, enriched_at, ovoko_status, created_at, total_returnable_amount, currency "
        "FROM returns"
    )
    items = await stack.fetch("SELECT * FROM return_items ORDER BY position")
    assert results == [SaveResult.SAVED, SaveResult.KNOWN, SaveResult.SAVED]
    assert [tuple(row.values()) for row in rows] == [
        ("returned", NOON, "Front door", Decimal("275.11"), "EUR", "5123", None, "A-1")
    ]
    assert [tuple(row.values()) for row in returns] == [
        (1, NOON, "New", NOON - timedelta(days=2), Decimal("294.950"), "EUR")
    ]
    assert [tuple(row.values())[1:4] for row in items] == [(1, "77", "Front door"), (2, None, LAMP.name)]
    assert [row["returnable_amount"] for row in items] == [Decimal("64.730000000000004"), Decimal(100)]


async def test_an_answer_about_an_unknown_entity_is_not_stored(stack: Stack) -> None:
    assert await save_part(stack, PART) is SaveResult.NO_ROW
    assert await save_return(stack, RETURN) is SaveResult.NO_ROW
    assert await stack.count("parts") == await stack.count("return_items") == 0


async def test_a_rebuild_leaves_details_as_they_are(stack: Stack) -> None:
    await apply(stack, "inventory", [part("sold", 1), part("sold", 1, "78")])
    await apply(stack, "returns", [opened(1)])
    await save_part(stack, PART)
    await save_return(stack, RETURN)
    quiet = [rebuilt(stack, family) for family in ("inventory", "returns")]
    await stack.execute(
        "UPDATE parts SET status = 'wrong'; UPDATE returns SET order_id = 'wrong'; "
        "INSERT INTO returns SELECT 'surplus', order_id, opened_at, updated_at, update_count, revision "
        "FROM returns; "
        "INSERT INTO return_items (return_id, position) VALUES ('surplus', 1)"
    )

    repaired = [rebuilt(stack, family, "--swap") for family in ("inventory", "returns")]

    rows = await stack.fetch(f"SELECT status, {PART_COLUMNS} FROM parts ORDER BY part_id")
    async with database_of(stack) as database, database.connection() as connection:
        known = await of_return.load_details(connection, "456")
    assert [one["differences"] for one in quiet] == [[], []]
    assert [len(one["differences"]) for one in repaired] == [2, 2]
    assert [tuple(row.values())[:3] for row in rows] == [("sold", NOON, "Front door"), ("sold", None, None)]
    assert known == RETURN
    assert [row["order_id"] for row in await stack.fetch("SELECT order_id FROM returns")] == ["70"]
    assert await stack.fetch("SELECT return_id FROM return_items WHERE return_id <> '456'") == []


async def test_explain_shows_fetched_details_and_when(stack: Stack) -> None:
    await apply(stack, "inventory", [part("sold", 1)])
    await apply(stack, "returns", [opened(1)])
    before = json.loads(stack.run("explain", "part", "77", "--json").stdout)
    await save_part(stack, PART)
    await save_return(stack, RETURN)

    explanation = json.loads(stack.run("explain", "return", "456", "--json").stdout)
    earlier = json.loads(
        stack.run("explain", "return", "456", "--at", "2026-03-01T11:30:00Z", "--json").stdout
    )
    table = stack.run("explain", "return", "456", COLUMNS="160").stdout
    of_the_part = stack.run("explain", "part", "77", COLUMNS="160").stdout

    assert before["enrichment"] is earlier["enrichment"] is None
    assert explanation["agrees_with_tables"] is True
    assert explanation["enrichment"]["enriched_at"] == "2026-03-01T12:00:00+00:00"
    assert explanation["enrichment"]["total_returnable_amount"] == "294.950"
    assert [one["name"] for one in explanation["enrichment"]["items"]] == ["Front door", LAMP.name]
    assert "[/red]Lamp" in table
    assert "\x1b" not in table
    assert "64.730000000000004" in table
    assert "2026-03-01 12:00:00" in of_the_part
    assert "275.11" in of_the_part


async def test_an_operator_requests_missing_details(stack: Stack) -> None:
    await apply(stack, "inventory", [part("sold", 1, part_id) for part_id in ("77", "78", "79")])
    await save_part(stack, PART)

    dry = stack.run("enrich", "ovoko", "parts", "--dry-run", "--json")
    first = stack.run("enrich", "ovoko", "parts", "--json")
    again = stack.run("enrich", "ovoko", "parts")
    once_more = stack.run("enrich", "ovoko", "parts", "77", "78", "--json")
    unknown = stack.run("enrich", "ovoko", "parts", "77", "99")
    returns = stack.run("enrich", "ovoko", "returns", "--json")

    assert json.loads(dry.stdout) == {"requested": 2, "requested_before": 0, "dry_run": True}
    assert json.loads(first.stdout) == {"requested": 2, "requested_before": 0, "dry_run": False}
    assert again.stdout == "0 parts were requested; 2 wait for an earlier request\n"
    assert json.loads(once_more.stdout) == {"requested": 1, "requested_before": 1, "dry_run": False}
    assert json.loads(returns.stdout) == {"requested": 0, "requested_before": 0, "dry_run": False}
    assert unknown.returncode == 1
    assert unknown.stderr.endswith("stockhook: no row for 99; nothing was requested\n")
    rows = await stack.fetch("SELECT subject, state, request FROM actions ORDER BY subject")
    assert [(row["subject"], row["state"], row["request"]) for row in rows] == [
        (part_id, "due", f'{{"part_id":"{part_id}"}}'.encode()) for part_id in ("77", "78", "79")
    ]
