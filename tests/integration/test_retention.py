"""Retention removes old rows, blocks no writer, and no event is applied again afterwards."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from consumers.registry import FAMILIES
from tests.support.applied_events import apply, database_of, flusher_of, generated, in_batches, item
from tests.support.events import part_changed
from tests.support.stack import Stack, until
from worker.pipeline.decode import Decoded
from worker.pipeline.transaction import apply_batch
from worker.postgres.durability import Flusher
from worker.postgres.locks import TRY_LOCK, AdvisoryLock

KEEP = {"STOCKHOOK_EVENT_LOG_DAYS": "60", "STOCKHOOK_DEAD_LETTER_DAYS": "30"}


@pytest.fixture(autouse=True)
def _no_old_months(stack: Stack) -> None:
    """Other tests leave months without events."""
    retained(stack)


def part(status: str, second: int) -> Decoded:
    return item(part_changed(13, status, second))


async def age(stack: Stack, days: int) -> str:
    """Age all logged events by this many days; return the name of their month."""
    at = datetime.now(UTC) - timedelta(days=days)
    await stack.execute(
        f"SELECT add_event_log_months('{at}', '{at}'); UPDATE event_log SET applied_at = '{at}'"
    )
    return f"event_log_{at:%Y_%m}"


def retained(stack: Stack, *arguments: str) -> Any:
    result = stack.run("retain", "--json", *arguments, **KEEP)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


async def partitions(stack: Stack) -> set[str]:
    rows = await stack.fetch(
        "SELECT relname FROM pg_class WHERE relname LIKE 'event\\_log\\_2%' AND relkind = 'r'"
    )
    return {row["relname"] for row in rows}


async def test_an_applied_event_stays_applied_when_its_partition_is_removed(stack: Stack) -> None:
    first = part("sold", 5)
    await apply(stack, "inventory", [first])
    month = await age(stack, 150)
    before = await partitions(stack)

    tried = retained(stack, "--dry-run")
    untouched = await stack.count("event_log")
    report = retained(stack)
    async with flusher_of(stack) as flusher:
        again = await apply_batch(FAMILIES["inventory"], flusher, [first])

    assert [one["name"] for one in tried["months"]] == [one["name"] for one in report["months"]] == [month]
    assert untouched == 1
    assert await partitions(stack) == before - {month}
    assert [type(outcome).__name__ for outcome in again.outcomes] == ["Duplicate"]
    assert await stack.count("event_log") == 0
    assert await stack.count("parts") == 1
    assert stack.run("rebuild", "inventory").returncode == 1
    gone = stack.run("explain", "part", "13")
    assert gone.returncode == 1
    assert "in the event log, which begins at 20" in gone.stderr


async def test_a_part_whose_history_is_gone_keeps_its_status(stack: Stack) -> None:
    """An overtaken event finds no trace of the newer one in the log."""
    await apply(
        stack,
        "inventory",
        [part("reserved", 4)],
        [part("sold", 8)],
    )
    await age(stack, 150)
    retained(stack)

    await apply(
        stack,
        "inventory",
        [part("in_warehouse", 6)],
        [part("written_off", 2), part("returned", 1)],
        [part("sold", 9)],
    )

    rows = await stack.fetch("SELECT status, occurred_at FROM parts")
    kinds = {row["kind"] for row in await stack.fetch("SELECT kind FROM findings")}
    assert [row["status"] for row in rows] == ["written_off"]
    assert rows[0]["occurred_at"].second == 2
    assert kinds == {"after_written_off"}


async def test_a_part_whose_latest_change_is_gone_from_the_log_is_judged_by_it(stack: Stack) -> None:
    await apply(stack, "inventory", [part("reserved", 8)])
    await age(stack, 150)
    retained(stack)

    await apply(stack, "inventory", [part("sold", 6)])

    findings = await stack.fetch("SELECT kind, message FROM findings")
    explained = json.loads(stack.run("explain", "part", "13", "--json").stdout)
    assert [event["changes"]["status"]["to"] for event in explained["events"]] == ["sold"]
    assert explained["log_begins_at"] is not None
    assert explained["agrees_with_tables"] is None
    assert "were dropped from the log" in " ".join(stack.run("explain", "part", "13").stdout.split())
    assert findings == [{"kind": "undocumented_transition", "message": "sold became reserved"}]
    assert (await stack.fetch("SELECT status FROM parts")) == [{"status": "reserved"}]


async def test_consumers_write_on_while_months_go(stack: Stack) -> None:
    old, new = generated("inventory", 400), generated("inventory", 1_000, seed=8)
    await apply(stack, "inventory", *in_batches(old, 100))
    month = await age(stack, 150)
    is_over = asyncio.Event()

    async def consume() -> int:
        applied = 0
        async with flusher_of(stack) as flusher:
            for batch in in_batches(new, 5):
                report = await apply_batch(FAMILIES["inventory"], flusher, batch)
                applied += sum(type(outcome).__name__ == "Applied" for outcome in report.outcomes)
                if not is_over.is_set():
                    await asyncio.sleep(0.03)
        return applied

    consuming = asyncio.create_task(consume())
    result = await asyncio.to_thread(retained, stack)
    was_busy = not consuming.done()
    is_over.set()

    assert await consuming == len(new)
    assert was_busy
    assert [one["name"] for one in result["months"]] == [month]
    assert await stack.count("event_log") == len(new)


async def test_writers_do_not_wait_while_retention_waits_for_a_long_read(stack: Stack) -> None:
    """Retention repeats short attempts to get the lock."""
    await apply(stack, "inventory", [part("sold", 5)])
    month = await age(stack, 150)
    async with database_of(stack) as database, Flusher(database) as flusher:
        async with database.transaction() as reading:
            await reading.fetch("SELECT count(*) FROM event_log")
            running = asyncio.create_task(asyncio.to_thread(retained, stack))

            async def is_waiting_for_lock() -> bool:
                return bool(
                    await stack.fetch(
                        "SELECT 1 FROM pg_stat_activity WHERE application_name = 'stockhook/retain' "
                        "AND query LIKE 'ALTER TABLE%' AND wait_event_type = 'Lock'"
                    )
                )

            await until(is_waiting_for_lock, "retention waits for the lock")
            # This would block behind a lock that waits for the reader.
            async with asyncio.timeout(30):
                await apply_batch(FAMILIES["inventory"], flusher, [part("reserved", 9)])
            assert not running.done()
        report = await running

    assert [one["name"] for one in report["months"]] == [month]


async def test_an_interrupted_archive_is_finished_and_a_complete_one_is_not_changed(stack: Stack) -> None:
    await stack.execute(
        "CREATE TABLE event_log_2019_01_dropping (LIKE event_log);"
        "CREATE TABLE event_log_2019_02 (LIKE event_log)"
    )
    try:
        report = retained(stack)
        left = await partitions(stack)
    finally:
        await stack.execute("DROP TABLE event_log_2019_02")

    assert report["months"] == []
    assert "event_log_2019_01_dropping" not in left
    assert "event_log_2019_02" in left


async def test_events_without_a_month_go_by_themselves(stack: Stack) -> None:
    await apply(stack, "inventory", [part("sold", 5)])
    await stack.execute("UPDATE event_log SET applied_at = '2001-02-03'")

    assert await stack.count("event_log_rest") == 1
    assert retained(stack, "--dry-run")["events_without_month"] == 1
    assert retained(stack)["events_without_month"] == 1
    assert await stack.count("event_log") == 0


async def test_only_dead_letters_that_were_seen_to_go(stack: Stack) -> None:
    for number, (state, days) in enumerate(
        [("waiting", 90), ("replaying", 90), ("replayed", 90), ("discarded", 90), ("discarded", 5)]
    ):
        await stack.execute(
            "INSERT INTO dead_letters (message_key, origin, state, event_id, type, reason, fingerprint, "
            "attempts, arrived_at, headers, body) "
            f"VALUES ('{uuid4()}', 'orders', '{state}', '{uuid4()}', 'x', "
            f"'r{number}', 'f', 1, now() - interval '{days} days', '{{}}', '')"
        )
    await stack.execute(
        "INSERT INTO dead_letter_audit (dead_letter_id, who, action) "
        "SELECT dead_letter_id, 'x', 'discarded' FROM dead_letters"
    )

    tried = retained(stack, "--dry-run")
    report = retained(stack)

    left = await stack.fetch("SELECT reason FROM dead_letters ORDER BY reason")
    assert tried["dead_letters"] == report["dead_letters"] == 2
    assert [row["reason"] for row in left] == ["r0", "r1", "r4"]
    assert await stack.count("dead_letter_audit") == 3


async def test_unhandled_events_go_after_days_of_their_own(stack: Stack) -> None:
    for number, days in enumerate((200, 91, 89)):
        await stack.execute(
            "INSERT INTO unhandled_events "
            "(provider, type, event_id, content_id, received_at, stored_at, body) "
            f"VALUES ('ovoko', 't{number}', '{uuid4()}', '{uuid4()}', '2001-02-03', "
            f"now() - interval '{days} days', '')"
        )
    without_limit = json.loads(stack.run("retain", "--json", STOCKHOOK_UNHANDLED_DAYS="0").stdout)
    longer = json.loads(stack.run("retain", "--json", "--dry-run", STOCKHOOK_UNHANDLED_DAYS="100").stdout)
    by_default = stack.run("retain")
    left = await stack.fetch("SELECT type FROM unhandled_events")

    assert (without_limit["unhandled_events"], longer["unhandled_events"]) == (0, 1)
    assert "deleted: 2 unhandled events" in by_default.stdout
    assert left == [{"type": "t2"}]


async def test_consumers_do_it_by_themselves_and_nothing_goes_by_default(stack: Stack) -> None:
    await apply(stack, "inventory", [part("sold", 5)])
    month = await age(stack, 150)
    by_default = json.loads(stack.run("retain", "--json").stdout)
    await stack.started("consume", "inventory", **KEEP)

    async def is_gone() -> bool:
        return month not in await partitions(stack)

    await until(is_gone, "the month is gone")

    assert by_default["months"] == []


async def test_retention_works_while_dead_letters_are_replayed(stack: Stack) -> None:
    await apply(stack, "inventory", [part("sold", 5)])
    month = await age(stack, 150)
    replay = await asyncpg.connect(stack.environment["STOCKHOOK_DATABASE_URL"])
    assert await replay.fetchval(TRY_LOCK, AdvisoryLock.REPLAY)

    dropped = retained(stack)

    await replay.close()
    assert [one["name"] for one in dropped["months"]] == [month]


async def test_retention_that_another_process_does_is_logged_as_skipped(stack: Stack) -> None:
    other = await asyncpg.connect(stack.environment["STOCKHOOK_DATABASE_URL"])
    assert await other.fetchval(TRY_LOCK, AdvisoryLock.RETENTION)

    refused = stack.run("retain")
    worker = stack.start("consume", "orders")

    async def is_skipped() -> bool:
        return "retention.skipped" in worker.lines()

    await until(is_skipped, "retention says that it was skipped")
    await other.close()
    assert refused.returncode == 1
    assert "another process is deleting" in refused.stderr


async def test_jobs_that_ended_go_with_dead_letters_and_open_ones_stay(stack: Stack) -> None:
    for state, days in (("done", 90), ("failed", 90), ("queued", 90), ("done", 5)):
        ended_at = "NULL" if state == "queued" else f"now() - interval '{days} days'"
        await stack.execute(
            "INSERT INTO bulk_jobs (kind, selection, last_id, matched, who, state, created_at, ended_at) "
            f"VALUES ('discard', '{{}}', 1, 1, 'x', '{state}', now() - interval '{days} days', {ended_at})"
        )

    tried = retained(stack, "--dry-run")
    report = retained(stack)

    assert tried["bulk_jobs"] == report["bulk_jobs"] == 2
    assert [row["state"] for row in await stack.fetch("SELECT state FROM bulk_jobs ORDER BY job_id")] == [
        "queued",
        "done",
    ]
