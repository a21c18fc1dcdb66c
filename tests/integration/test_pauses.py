"""`stockhook pause` and `stockhook resume` as people type them, and where a pause is shown."""

import asyncio
import json

from tests.support.applied_events import database_of
from tests.support.stack import Stack, until
from worker.dead_letters.audit_trail import who
from worker.postgres.pauses import ALL

REASON = "repair of the table"

AUDIT = "SELECT who, action, subject, reason FROM operator_audit ORDER BY audit_id"


async def test_a_family_is_paused_once_and_resumed(stack: Stack) -> None:
    paused = stack.run("pause", "orders", "--reason", f"  {REASON}\n", "--json")
    again = stack.run("pause", "orders", "--reason", "another one")
    status = json.loads(stack.run("status", "--json").stdout)
    shown = stack.run("status", COLUMNS="200").stdout
    resumed = stack.run("resume", "orders", "--reason", "done", "--json")
    not_paused = stack.run("resume", "orders")
    rows = [tuple(row.values()) for row in await stack.fetch(AUDIT)]

    assert paused.returncode == 0, paused.stderr
    pause = json.loads(paused.stdout)
    assert (pause["family"], pause["paused_by"], pause["reason"]) == ("orders", who(), REASON)
    assert again.returncode == 1
    assert f"orders is already paused by {who()} since " in again.stderr
    assert again.stderr.endswith(f" UTC: {REASON}. Nothing was changed\n")
    states = {family["family"]: family["paused"] for family in status["families"]}
    assert states.pop("orders") == {name: pause[name] for name in ("paused_by", "reason", "since")}
    assert set(states.values()) == {None}
    assert f"orders is paused by {who()} since " in shown
    assert json.loads(resumed.stdout) == {
        "family": "orders",
        "ended": {name: pause[name] for name in pause if name != "family"},
    }
    assert (not_paused.returncode, not_paused.stdout) == (0, "orders is not paused. Nothing was changed\n")
    assert rows == [
        (who(), "family.paused", "orders", REASON),
        (who(), "family.resumed", "orders", "done"),
    ]
    assert await stack.count("paused_families") == 0


async def test_of_several_pauses_at_once_one_is_stored_and_named_to_the_others(stack: Stack) -> None:
    done = await asyncio.gather(
        *(
            asyncio.to_thread(stack.run, "pause", "orders", "--reason", f"user {number}")
            for number in range(4)
        )
    )
    rows = await stack.fetch("SELECT reason FROM paused_families")

    assert sorted(one.returncode for one in done) == [0, 1, 1, 1]
    assert all(rows[0]["reason"] in one.stderr for one in done if one.returncode)
    assert await stack.count("operator_audit") == 1


async def test_wrong_usage_exits_2_and_changes_nothing(stack: Stack) -> None:
    no_family = stack.run("pause", "invoices", "--reason", REASON)
    no_reason = stack.run("pause", "orders")
    empty = stack.run("pause", "orders", "--reason", " ")

    assert (no_family.returncode, no_reason.returncode, empty.returncode) == (2, 2, 2)
    for family in ("inventory", "orders", "returns", "buybacks", "reminders"):
        assert family in no_family.stdout + no_family.stderr
    assert await stack.count("operator_audit") == 0


async def test_doctor_mentions_a_pause(stack: Stack) -> None:
    def findings() -> list[tuple[str, str]]:
        report = json.loads(stack.run("doctor", "--json").stdout)["findings"]
        return [(one["level"], one["what"]) for one in report if one["subject"] == "pauses"]

    before = findings()
    stack.run("pause", "orders", "--reason", REASON)
    ((level, what),) = findings()

    assert before == [("ok", "no family is paused")]
    assert level == "warning"
    assert what.startswith(f"orders is paused by {who()} since ")


async def test_each_process_exports_and_logs_the_pause(stack: Stack) -> None:
    consumer = await stack.started("consume", "orders")
    stack.run("pause", "orders", "--reason", REASON)
    stack.run("pause", "returns", "--reason", REASON)

    async def exported() -> dict[str, str]:
        text = (await stack.ops(consumer.ops_port, "/metrics")).text
        lines = [line.split() for line in text.splitlines() if line.startswith("stockhook_paused_by_user{")]
        return {name.split('"')[1]: value for name, value in lines}

    async def are_paused() -> bool:
        return [family for family, value in (await exported()).items() if value == "1.0"] == [
            "orders",
            "returns",
        ]

    async def are_resumed() -> bool:
        return set((await exported()).values()) == {"0.0"}

    await until(are_paused, "the metric of both families is 1")
    for family in ("orders", "returns"):
        stack.run("resume", family)
    await until(are_resumed, "the metric of every family is 0")
    lines = [json.loads(line) for line in consumer.lines().splitlines()]
    events = [line for line in lines if line["event"] in ("family.paused", "family.resumed")]

    assert [line["event"] for line in events] == ["family.paused", "family.resumed"]
    assert {(line["family"], line["paused_by"], line["reason"]) for line in events} == {
        ("orders", who(), REASON)
    }


async def test_the_pauses_are_read_by_their_key(stack: Stack) -> None:
    """Sessions have enable_seqscan off: Postgres would compile a scan of the table at each reading."""
    async with database_of(stack) as database, database.connection() as connection:
        plan = [row[0] for row in await connection.fetch(f"EXPLAIN {ALL}")]

    assert plan[0].startswith("Index Scan using paused_families_pkey on paused_families ")
