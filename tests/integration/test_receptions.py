"""Implausible timestamps and first receptions, in the real tables."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from consumers.registry import FAMILIES
from tests.support.applied_events import RECEIVED_AT, apply, flusher_of, item
from tests.support.events import buyback, ovoko, part_changed
from tests.support.stack import Stack
from worker.pipeline.decode import Decoded
from worker.pipeline.transaction import apply_batch

FAR = "9999-12-30T00:00:00+00:00"
NOW = RECEIVED_AT.isoformat()
LOG_A_LARGE_NUMBER = """
UPDATE event_log
SET body = convert_to(regexp_replace(convert_from(body, 'UTF8'), '^{', '{"x": 1e200, '), 'UTF8')
"""
LOG_A_NUMBER = """
UPDATE event_log SET body = convert_to(replace(convert_from(body, 'UTF8'), '"13.0"', '13.0'), 'UTF8')
"""
MISSED = "CollectionItemPickupMissedEvent"


def received(one: Decoded, at: datetime) -> Decoded:
    envelope = one.candidate.envelope.model_copy(update={"received_at": at})
    return replace(one, candidate=replace(one.candidate, envelope=envelope))


def part(status: str, timestamp: str, event_type: str = "part.status.changed") -> Decoded:
    return item(ovoko(event_type, timestamp, part_id="13", status=status))


async def state(stack: Stack) -> tuple[str, bool]:
    [row] = await stack.fetch("SELECT status, is_sellable FROM parts")
    return row["status"], row["is_sellable"]


def rebuilt(stack: Stack, family: str) -> Any:
    return json.loads(stack.run("rebuild", family, "--json").stdout)["differences"]


async def test_a_part_that_is_in_the_warehouse_in_9999_can_be_sold_today(stack: Stack) -> None:
    async with flusher_of(stack) as flusher:
        report = await apply_batch(FAMILIES["inventory"], flusher, [part("in_warehouse", FAR)])
    await apply(stack, "inventory", [part("sold", NOW)])
    doctor = json.loads(stack.run("doctor", "--json").stdout)
    explained = json.loads(stack.run("explain", "part", "13", "--json").stdout)

    assert report.implausible == 1
    assert await state(stack) == ("sold", False)
    assert [row["kind"] for row in await stack.fetch("SELECT kind FROM findings")] == [
        "implausible_timestamp"
    ]
    assert rebuilt(stack, "inventory") == []
    assert explained["agrees_with_tables"] is True
    [warned] = [finding for finding in doctor["findings"] if finding["subject"] == "timestamps"]
    assert (warned["level"], warned["what"][:18]) == ("warning", "in 7 days, 1 event")


async def test_a_stuck_row_of_an_earlier_release_is_repaired_by_an_observation(stack: Stack) -> None:
    await apply(stack, "inventory", [part("in_warehouse", FAR)])
    await stack.execute(f"UPDATE parts SET occurred_at = '{FAR}', has_implausible = false")
    await apply(stack, "inventory", [part("sold", NOW, "stockhook.observed.part")])

    assert await state(stack) == ("sold", False)


async def test_an_earlier_reception_corrects_log_and_part(stack: Stack) -> None:
    """Even of an event that shares its id with another one."""
    event_id = uuid4()
    ahead = (RECEIVED_AT + timedelta(hours=3)).isoformat()
    for other in (None, part("reserved", "2026-01-01T00:00:00+00:00")):
        await stack.execute("TRUNCATE event_ids, reused_event_ids, event_log, parts, findings")
        one = _under(event_id, part("in_warehouse", ahead))
        late = received(one, RECEIVED_AT + timedelta(hours=3))
        early = received(one, RECEIVED_AT - timedelta(minutes=1))
        for event in (None if other is None else _under(event_id, other), late, part("sold", NOW)):
            await apply(stack, "inventory", *([[event]] if event else []))
        stood = await state(stack)
        await apply(stack, "inventory", [early, late])
        kinds = {row["kind"] for row in await stack.fetch("SELECT kind FROM findings WHERE family <> 'any'")}
        log = await stack.fetch(
            f"SELECT received_at FROM event_log WHERE occurred_at = '{ahead}' AND event_id = '{event_id}'"
        )

        assert stood == ("in_warehouse", True)
        assert await state(stack) == ("sold", False)
        assert kinds == {"implausible_timestamp"}
        assert [row["received_at"] for row in log] == [early.candidate.envelope.received_at]
        assert rebuilt(stack, "inventory") == []


async def test_an_earlier_reception_corrects_a_buyback_order_and_its_due_payment(stack: Stack) -> None:
    order = {"id": "o1", "status": "MissedPickUp"}
    missed = item(buyback(MISSED, "9999-12-30T00:00:00", order=order), uuid4())
    earlier = RECEIVED_AT - timedelta(hours=2)
    await apply(stack, "buybacks", [missed], [received(missed, earlier)])
    orders = await stack.fetch("SELECT occurred_at FROM buyback_orders")
    due = await stack.fetch("SELECT occurred_at FROM communications")

    assert [row["occurred_at"] for row in (*orders, *due)] == [earlier, earlier]
    assert rebuilt(stack, "buybacks") == []


async def test_a_rebuild_that_is_resumed_knows_of_an_earlier_reception(stack: Stack) -> None:
    one = part("in_warehouse", (RECEIVED_AT + timedelta(hours=3)).isoformat())
    other = part_changed(14, "x", NOW)
    late = received(one, RECEIVED_AT + timedelta(hours=3))
    await apply(stack, "inventory", [late], [part("sold", NOW)], [item(other)])
    await stack.execute("UPDATE parts SET status = 'wrong' WHERE part_id = '14'")
    before = rebuilt(stack, "inventory")
    await apply(stack, "inventory", [received(one, RECEIVED_AT)])
    after = json.loads(stack.run("rebuild", "inventory", "--swap", "--json").stdout)

    assert [one["entity_id"] for one in before] == ["14"]
    assert after["resumed_from"] == 3
    assert [one["entity_id"] for one in after["differences"]] == ["14"]
    assert await stack.fetch("SELECT status FROM parts ORDER BY part_id") == [
        {"status": "sold"},
        {"status": "x"},
    ]


async def test_without_all_events_nothing_is_computed_anew(stack: Stack) -> None:
    one = part("in_warehouse", FAR)
    await apply(stack, "inventory", [one])
    await stack.execute("INSERT INTO event_log_dropped (name, applied_before) VALUES ('x', '2026-01-01')")
    before = await stack.fetch("SELECT * FROM parts")
    await apply(stack, "inventory", [received(one, RECEIVED_AT - timedelta(hours=1))])

    assert await stack.fetch("SELECT * FROM parts") == before


def _under(event_id: UUID, one: Decoded) -> Decoded:
    envelope = one.candidate.envelope.model_copy(update={"event_id": event_id})
    return replace(one, candidate=replace(one.candidate, envelope=envelope))


async def test_events_logged_by_an_older_release_are_corrected_rebuilt_and_explained(stack: Stack) -> None:
    """It accepted numbers of any size in unused fields."""
    one = part("in_warehouse", (RECEIVED_AT + timedelta(hours=3)).isoformat())
    late = received(one, RECEIVED_AT + timedelta(hours=3))
    await apply(stack, "inventory", [late], [part("sold", NOW)])
    await stack.execute(LOG_A_LARGE_NUMBER)
    explained = json.loads(stack.run("explain", "part", "13", "--json").stdout)
    differences = rebuilt(stack, "inventory")
    await apply(stack, "inventory", [received(one, RECEIVED_AT - timedelta(minutes=1))])
    corrected = await state(stack)
    # Older than the state, so the history is read.
    await apply(stack, "inventory", [part("returned", (RECEIVED_AT - timedelta(days=1)).isoformat())])

    assert (len(explained["events"]), explained["agrees_with_tables"]) == (2, True)
    assert differences == []
    assert corrected == ("sold", False)
    assert await state(stack) == ("sold", False)
    assert rebuilt(stack, "inventory") == []


async def test_an_event_of_the_log_that_cannot_be_read_counts_as_dropped(stack: Stack) -> None:
    one = part("in_warehouse", (RECEIVED_AT + timedelta(hours=3)).isoformat())
    late = received(one, RECEIVED_AT + timedelta(hours=3))
    await apply(stack, "inventory", [late], [part("sold", NOW)])
    await stack.execute(f"UPDATE event_log SET body = 'x' WHERE occurred_at = '{NOW}'")
    stood = await state(stack)
    await apply(stack, "inventory", [received(one, RECEIVED_AT - timedelta(minutes=1))])
    stored = await state(stack)
    await apply(stack, "inventory", [part("returned", (RECEIVED_AT - timedelta(days=1)).isoformat())])
    explained = json.loads(stack.run("explain", "part", "13", "--json").stdout)
    refused = stack.run("rebuild", "inventory")

    assert stored == stood == ("in_warehouse", True)
    assert (await stack.count("event_log"), await stack.count("parts")) == (3, 1)
    assert (len(explained["events"]), explained["unreadable_events"]) == (2, 1)
    assert explained["agrees_with_tables"] is None
    assert refused.returncode == 1
    assert "cannot be read" in refused.stderr


async def test_the_history_of_a_part_includes_events_logged_under_another_spelling(stack: Stack) -> None:
    """A number with a fraction was logged unchanged; a text still is."""
    document = part_changed("13.0", "sold", NOW)
    older = part_changed("13.0", "returned", "2026-02-01T00:00:00Z")
    await apply(stack, "inventory", [item(document)])
    await stack.execute(LOG_A_NUMBER)
    await apply(stack, "inventory", [item(older)])

    assert await stack.count("event_log") == 2
    assert await state(stack) == ("sold", False)

    # Both were logged by an earlier release: they concern part 13, and a rebuild assigns the row to it.
    await stack.execute(LOG_A_NUMBER)
    assert stack.run("rebuild", "inventory", "--swap").returncode == 0
    assert [row["part_id"] for row in await stack.fetch("SELECT part_id FROM parts")] == ["13"]
    assert await state(stack) == ("sold", False)
