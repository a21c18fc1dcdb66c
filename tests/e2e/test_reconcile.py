"""A webhook that never came is found by asking the marketplace, and taken over: as processes, by commands."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx

from tests.stack import Stack, Worker, until

# Fails for one part, until it is mended.
POISON = """
CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'poison';
END $$;
CREATE TRIGGER poison BEFORE INSERT OR UPDATE ON parts
    FOR EACH ROW WHEN (NEW.part_id = '12') EXECUTE FUNCTION poison();
"""
CURE = """
DROP TRIGGER IF EXISTS poison ON parts;
DROP FUNCTION IF EXISTS poison;
"""

HOUR_AGO = (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds")


def webhook(part_id: int, status: str, at: str = HOUR_AGO) -> bytes:
    data = {"part_id": str(part_id), "status": status, "external_id": None}
    return event("part.status.changed", data, at)


def returned(event_type: str, return_id: int, order_id: int) -> bytes:
    return event(event_type, {"return_id": str(return_id), "order_id": str(order_id)}, HOUR_AGO)


def event(event_type: str, data: Mapping[str, object], at: str) -> bytes:
    document = {"event_id": str(uuid4()), "event_type": event_type, "timestamp": at, "event_data": data}
    return json.dumps(document).encode()


async def exported(simulate: Worker) -> dict[str, str]:
    """What `stockhook simulate marketplaces` says to set."""

    async def all_said() -> bool:
        return "STOCKHOOK_OVOKO_USER_TOKEN" in simulate.lines()

    await until(all_said, "the simulated marketplaces say where they are")
    return dict(re.findall(r"^export (\S+)=(\S+)$", simulate.lines(), flags=re.MULTILINE))


async def test_a_webhook_that_never_came_is_found(stack: Stack) -> None:
    simulated = await exported(stack.start("simulate", "marketplaces", "--port", "0"))
    await stack.started("run")
    parts = [{"id": number, "status": 0, "updated_at": HOUR_AGO} for number in (11, 12)]
    async with httpx.AsyncClient(base_url=simulated["STOCKHOOK_OVOKO_API_URL"]) as ovoko:
        (await ovoko.post("/control/parts", json=parts)).raise_for_status()
        for part in parts:
            (await stack.post_ovoko(webhook(part["id"], "in_warehouse"))).raise_for_status()

        async def both_are_here() -> bool:
            return await stack.count("parts") == 2

        await until(both_are_here, "two parts")
        before = stack.run("reconcile", "ovoko", "parts", **simulated)

        # Sold there, and no word of it came here.
        sold = [{"id": 12, "status": 2, "updated_at": HOUR_AGO}]
        (await ovoko.post("/control/parts", json=sold)).raise_for_status()
    after = stack.run("reconcile", "ovoko", "parts", "--json", **simulated)

    found = json.loads(after.stdout)
    assert (before.returncode, after.returncode) == (0, 1), before.stderr + after.stderr
    assert "both say the same" in before.stdout
    assert [(one["id"], one["here"], one["there"]) for one in found["differences"]] == [
        ("12", "in_warehouse", "2 (sold)")
    ]


async def send(stack: Stack, *bodies: bytes) -> None:
    """As webhooks, until they are applied."""
    logged = await stack.count("event_log")
    for body in bodies:
        (await stack.post_ovoko(body)).raise_for_status()

    async def all_are_logged() -> bool:
        return await stack.count("event_log") == logged + len(bodies)

    await until(all_are_logged, "the webhooks are applied")


async def statuses(stack: Stack) -> dict[str, str]:
    rows = await stack.fetch("SELECT part_id, status FROM parts")
    return {row["part_id"]: row["status"] for row in rows}


def applied(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.stdout, done.stderr
    return json.loads(done.stdout)["applied"]


async def test_what_differs_is_taken_over_and_then_nothing_differs(stack: Stack) -> None:
    simulated = await exported(stack.start("simulate", "marketplaces", "--port", "0"))
    await stack.started("run")

    def reconcile(*arguments: str) -> subprocess.CompletedProcess[str]:
        return stack.run("reconcile", "ovoko", *arguments, **simulated)

    async with httpx.AsyncClient(base_url=simulated["STOCKHOOK_OVOKO_API_URL"]) as ovoko:

        async def lists(what: str, *rows: Mapping[str, object]) -> None:
            (await ovoko.post(f"/control/{what}", json=rows)).raise_for_status()

        await lists(
            "parts",
            {"id": 11, "status": 0, "updated_at": HOUR_AGO},
            {"id": 12, "status": 2, "updated_at": HOUR_AGO},
            {"id": 14, "status": 1, "updated_at": HOUR_AGO, "external_id": "shelf 4"},
        )
        await lists(
            "returns",
            {"id": 1, "order_id": 10, "created_at": HOUR_AGO},
            {"id": 3, "order_id": 30, "created_at": HOUR_AGO},
            {"id": 4, "order_id": 40, "created_at": HOUR_AGO},
        )
        await send(
            stack,
            *(webhook(part_id, "in_warehouse") for part_id in (11, 12, 13)),
            returned("order.return.created", 2, 20),
            returned("order.return.created", 3, 31),
            returned("order.return.updated", 4, 40),
        )

        nobody_answers = reconcile("parts", "--apply")
        dry_run = reconcile("parts", "--apply", "--dry-run")
        before = await statuses(stack)
        parts, again = reconcile("parts", "--apply", "--yes", "--json"), reconcile("parts")
        after = await statuses(stack)
        returns, returns_again = reconcile("returns", "--apply", "--yes", "--json"), reconcile("returns")

        # A newer event wins over what was seen; what is written off stays so.
        now = datetime.now(UTC).isoformat(timespec="seconds")
        await send(stack, webhook(12, "returned", now), webhook(11, "written_off"))
        await lists("parts", {"id": 12, "status": 3, "updated_at": HOUR_AGO})
        contradicted = reconcile("parts", "--apply", "--yes", "--json")

    explained = json.loads(stack.run("explain", "part", "12", "--json").stdout)
    rebuilt = [stack.run("rebuild", family) for family in ("inventory", "returns")]
    findings = await stack.fetch("SELECT kind, entity_id FROM findings WHERE family = 'inventory'")

    assert (nobody_answers.returncode, dry_run.returncode) == (2, 1)
    assert "where nobody can answer, give --yes" in nobody_answers.stderr
    assert "nothing was sent; 3 observations would be" in dry_run.stdout
    assert before == dict.fromkeys(("11", "12", "13"), "in_warehouse")
    assert (parts.returncode, again.returncode) == (0, 0), parts.stderr + again.stdout
    assert "both say the same" in again.stdout
    assert "both say the same" in returns_again.stdout
    assert applied(parts) == {"sent": 3, "applied": 3, "still_different": []}
    assert after == {"11": "in_warehouse", "12": "sold", "13": "not_listed", "14": "reserved"}
    assert (returns.returncode, returns_again.returncode) == (0, 0), returns.stderr + returns_again.stdout
    assert applied(returns) == {"sent": 4, "applied": 4, "still_different": []}
    assert [(step["type"], step["why"]) for step in explained["events"]] == [
        ("part.status.changed", "first status of the part"),
        ("stockhook.observed.part", "observed on the marketplace; the newest status wins"),
        ("part.status.changed", "the newest status wins"),
    ]
    assert contradicted.returncode == 1
    assert [one["id"] for one in applied(contradicted)["still_different"]] == ["11"]
    assert [(row["kind"], row["entity_id"]) for row in findings] == [("after_written_off", "11")]
    assert [done.returncode for done in rebuilt] == [0, 0], [done.stdout + done.stderr for done in rebuilt]


async def test_a_part_that_a_timestamp_in_9999_makes_sellable_is_corrected(stack: Stack) -> None:
    simulated = await exported(stack.start("simulate", "marketplaces", "--port", "0"))
    await stack.started("run")
    await send(stack, webhook(13, "in_warehouse", "9999-12-30T00:00:00+00:00"))
    async with httpx.AsyncClient(base_url=simulated["STOCKHOOK_OVOKO_API_URL"]) as ovoko:
        sold = [{"id": 13, "status": 2, "updated_at": HOUR_AGO}]
        (await ovoko.post("/control/parts", json=sold)).raise_for_status()
    done = stack.run("reconcile", "ovoko", "parts", "--apply", "--yes", "--json", **simulated)

    assert (applied(done)["applied"], await statuses(stack)) == (1, {"13": "sold"})


async def test_killed_once_it_has_sent_nothing_is_lost_and_it_can_be_run_again(stack: Stack) -> None:
    simulated = await exported(stack.start("simulate", "marketplaces", "--port", "0"))
    parts = [{"id": number, "status": 0, "updated_at": HOUR_AGO} for number in (11, 12, 13)]
    async with httpx.AsyncClient(base_url=simulated["STOCKHOOK_OVOKO_API_URL"]) as ovoko:
        (await ovoko.post("/control/parts", json=parts)).raise_for_status()
    arguments = ("reconcile", "ovoko", "parts", "--apply")
    asked = ask(stack, arguments, "n", simulated)
    first = stack.start(*arguments, "--yes", **simulated)

    async def all_are_sent() -> bool:
        return (await stack.depths()).get("stockhook.inventory") == 3

    await until(all_are_sent, "three observations wait")
    first.kill()

    async def one_is_dead() -> bool:
        return await stack.count("dead_letters") == 1

    await stack.execute(POISON)
    try:
        await stack.started("consume", "inventory", STOCKHOOK_KEEP_DEAD_LETTERS="true")
        await until(one_is_dead, "the one that cannot be applied is a dead letter")
        others = await statuses(stack)
        [letter] = await stack.fetch("SELECT lane, provenance FROM dead_letters")
    finally:
        await stack.execute(CURE)
    replayed = stack.run("dead", "replay", "--all")
    whole = await statuses(stack)
    again = stack.run(*arguments, "--yes", **simulated)
    last = stack.run("reconcile", "ovoko", "parts", **simulated)

    assert asked.returncode == 1
    assert "Take over 3 parts as they are there? [y/N]" in asked.stderr
    assert "nothing was sent; 3 observations would be" in asked.stdout
    assert letter == {"lane": "inventory", "provenance": "observation"}
    assert others == dict.fromkeys(("11", "13"), "in_warehouse")
    assert replayed.returncode == 0, replayed.stderr
    assert whole == dict.fromkeys(("11", "12", "13"), "in_warehouse")
    assert (again.returncode, last.returncode) == (0, 0), again.stderr + last.stdout
    assert "both say the same" in last.stdout


def ask(
    stack: Stack, arguments: tuple[str, ...], answer: str, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run `stockhook` with somebody at the keyboard."""
    keyboard, terminal = pty.openpty()
    try:
        os.write(keyboard, f"{answer}\n".encode())
        return subprocess.run(
            [sys.executable, "-m", "worker", *arguments],
            env={**os.environ, **stack.environment, **environment},
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(keyboard)
        os.close(terminal)
