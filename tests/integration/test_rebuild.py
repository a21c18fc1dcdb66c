"""A rebuild beside running consumers equals the live projection, or shows and repairs the differences."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from consumers.effects import apply_events
from consumers.family import CommunicationKind, Event
from consumers.registry import FAMILIES
from tests.support.applied_events import apply, database_of, flusher_of, generated, in_batches, item
from tests.support.events import part_changed
from tests.support.stack import Stack, until
from worker.pipeline.transaction import apply_batch
from worker.postgres import event_log


@pytest.fixture
async def stack(stack: Stack) -> AsyncIterator[Stack]:
    yield stack
    for family in FAMILIES:
        await stack.execute(f"DROP SCHEMA IF EXISTS rebuild_{family} CASCADE")


PLANTED = """
UPDATE parts SET status = 'in_warehouse' WHERE part_id = '1';
DELETE FROM parts WHERE part_id = '2';
INSERT INTO parts (part_id, status, occurred_at, event_id, revision)
SELECT '4', status, occurred_at, event_id, revision FROM parts WHERE part_id = '3';
DELETE FROM findings WHERE family = 'inventory';
"""


def rebuilt(stack: Stack, family: str, *arguments: str) -> tuple[int, Any]:
    result = stack.run("rebuild", family, *arguments, "--json")
    assert result.stdout, result.stderr
    return result.returncode, json.loads(result.stdout)


async def schemas_left(stack: Stack) -> list[str]:
    rows = await stack.fetch("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'rebuild%'")
    return [row["nspname"] for row in rows]


def test_each_communication_belongs_to_one_family() -> None:
    kinds = [kind for family in FAMILIES.values() for kind in family.communications]

    assert sorted(kinds) == sorted(CommunicationKind)


@pytest.mark.parametrize("family", list(FAMILIES))
async def test_a_rebuilt_family_is_equal_to_the_original(stack: Stack, family: str) -> None:
    await apply(stack, family, *in_batches(generated(family, 600), 7))

    code, report = rebuilt(stack, family)

    assert report["differences"] == []
    assert (code, report["events"]) == (0, await stack.count("event_log"))
    assert await stack.count(FAMILIES[family].tables[0].name) > 5
    assert await schemas_left(stack) == []


async def test_planted_rows_are_shown_and_repaired(stack: Stack) -> None:
    await apply(
        stack,
        "inventory",
        [item(part_changed(part_id, "sold", 1)) for part_id in ("1", "2", "3")],
        [item(part_changed("3", "reserved", 5))],
    )
    before = await stack.fetch("SELECT part_id, status FROM parts ORDER BY part_id")
    await stack.execute(PLANTED)

    code, report = rebuilt(stack, "inventory")
    shown = stack.run("rebuild", "inventory")
    repaired, repairing = rebuilt(stack, "inventory", "--swap")
    again, after = rebuilt(stack, "inventory")

    differences = [(one["table"], one["entity_id"], one["kind"]) for one in report["differences"]]
    assert differences == [
        ("parts", "1", "different"),
        ("parts", "2", "missing"),
        ("parts", "4", "surplus"),
        ("findings", "3", "missing"),
    ]
    assert report["differences"][0]["columns"] == {
        "status": {"live": "in_warehouse", "rebuilt": "sold"},
        "is_sellable": {"live": "true", "rebuilt": "false"},
    }
    assert code == shown.returncode == 1
    assert "4 rows differ" in shown.stdout
    assert (repaired, repairing["swapped"], len(repairing["differences"])) == (0, True, 4)
    assert (again, after["differences"]) == (0, [])
    assert await stack.fetch("SELECT part_id, status FROM parts ORDER BY part_id") == before
    assert await schemas_left(stack) == []


async def test_a_repair_keeps_other_families_rows_of_the_same_tables(stack: Stack) -> None:
    await apply(stack, "buybacks", *in_batches(generated("buybacks", 200), 20))
    await apply(stack, "reminders", *in_batches(generated("reminders", 100), 20))
    calls = await stack.count("communications")
    await stack.execute(
        "DELETE FROM communications WHERE event_id IN (SELECT event_id FROM communications LIMIT 40)"
    )

    ends = [rebuilt(stack, family, "--swap")[0] for family in ("buybacks", "reminders")]

    assert ends == [0, 0]
    assert await stack.count("communications") == calls


async def test_consumers_go_on_while_a_rebuild_is_killed_resumed_and_takes_over(stack: Stack) -> None:
    """The planted row is repaired, and no event meanwhile is lost or applied twice."""
    backlog, meanwhile = generated("inventory", 12_000), generated("inventory", 4_000, seed=8)
    await apply(stack, "inventory", *in_batches(backlog, 200))
    await stack.execute("UPDATE parts SET status = 'wrong', revision = revision + 1 WHERE part_id LIKE '%7%'")
    planted = len(await stack.fetch("SELECT 1 FROM parts WHERE status = 'wrong'"))
    is_over = asyncio.Event()

    async def consume() -> int:
        applied = 0
        async with flusher_of(stack) as flusher:
            for batch in in_batches(meanwhile, 10):
                report = await apply_batch(FAMILIES["inventory"], flusher, batch)
                applied += sum(type(outcome).__name__ == "Applied" for outcome in report.outcomes)
                if not is_over.is_set():
                    await asyncio.sleep(0.02)
        return applied

    consuming = asyncio.create_task(consume())
    broken_off = stack.start("rebuild", "inventory")

    async def has_started() -> bool:
        if await stack.fetch("SELECT to_regclass('rebuild_inventory.progress') AS it") == [{"it": None}]:
            return False
        rows = await stack.fetch("SELECT events FROM rebuild_inventory.progress")
        return bool(rows and rows[0]["events"])

    await until(has_started, "a window is done", 30)
    broken_off.kill()
    code, rebuild_report = await asyncio.to_thread(rebuilt, stack, "inventory", "--swap")
    was_busy = not consuming.done()
    is_over.set()
    applied = await consuming
    again, after = rebuilt(stack, "inventory")

    assert planted > 0
    assert was_busy
    assert (code, rebuild_report["swapped"], rebuild_report["resumed_from"] > 0) == (0, True, True)
    assert len(rebuild_report["differences"]) > 0
    assert applied == len(meanwhile)
    assert (again, after["differences"]) == (0, [])
    assert after["events"] == await stack.count("event_log")


async def is_waiting(stack: Stack) -> bool:
    """Its windows have not started, and it polls the writers of the log."""
    rows = await stack.fetch(
        "SELECT 1 FROM pg_stat_activity WHERE application_name = 'stockhook/rebuild' "
        "AND query LIKE '%FROM pg_locks%' AND query NOT LIKE '%pg_stat_activity%'"
    )
    return bool(rows)


async def test_an_event_that_commits_late_is_waited_for(stack: Stack) -> None:
    """Its number is lower than those that were committed earlier."""
    await apply(stack, "inventory", [item(part_changed("1", "sold", 1))])
    slow = item(part_changed("2", "sold", 1))
    async with database_of(stack) as database:
        async with database.transaction() as connection:
            await event_log.claim(connection, "inventory", [slow.candidate])
            await apply(stack, "inventory", [item(part_changed("3", "sold", 1))])
            running = asyncio.create_task(asyncio.to_thread(rebuilt, stack, "inventory"))
            await until(partial(is_waiting, stack), "the rebuild has queried the writers", 20)
            assert not running.done()
            envelope, payload = slow.candidate.envelope, slow.candidate.payload
            event = Event(envelope.event_id, envelope.received_at, payload)
            await apply_events(FAMILIES["inventory"], connection, [event])
        code, report = await running

    assert (code, report["differences"], report["events"]) == (0, [], 3)


async def test_a_log_that_was_cut_is_refused(stack: Stack) -> None:
    await stack.execute("INSERT INTO event_log_dropped (name, applied_before) VALUES ('x', '2026-01-01')")

    result = stack.run("rebuild", "orders")

    assert result.returncode == 1
    assert "events that were applied before 2026-01-01 were dropped" in result.stderr
