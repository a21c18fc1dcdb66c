"""`stockhook reconcile` between a simulated Ovoko and the product, all as processes."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from deploy.local.services import Services
from tests.support import events
from tests.support.events import body, part_changed
from tests.support.fault_sql import REMOVE_FAULT, fail_rows
from tests.support.stack import Stack, empty_stack, http_client, printed_settings, until

HOUR_AGO = (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds")
IN_WAREHOUSE, RESERVED, SOLD, RETURNED = range(4)
"""Statuses of parts in Ovoko's API."""

Done = subprocess.CompletedProcess[str]


def webhook(part_id: int, status: str, at: str = HOUR_AGO) -> bytes:
    return body(part_changed(part_id, status, at))


def returned(event_type: str, return_id: int, order_id: int) -> bytes:
    return body(events.ovoko(event_type, HOUR_AGO, return_id=str(return_id), order_id=str(order_id)))


def part(part_id: int, status: int, **more: object) -> dict[str, object]:
    return {"id": part_id, "status": status, "updated_at": HOUR_AGO, **more}


def listed_return(return_id: int, order_id: int) -> dict[str, object]:
    return {"id": return_id, "order_id": order_id, "created_at": HOUR_AGO}


@dataclass
class Marketplace:
    """The simulated Ovoko, and the product that reconciles with it."""

    stack: Stack
    settings: dict[str, str] = field(default_factory=dict)

    async def start(self) -> None:
        simulate = self.stack.start("simulate", "marketplaces", "--port", "0")
        self.settings = await printed_settings(simulate)

    async def lists(self, what: str, *rows: Mapping[str, object]) -> None:
        """Set Ovoko's list, without webhooks."""
        async with http_client() as client:
            url = f"{self.settings['STOCKHOOK_OVOKO_API_URL']}/control/{what}"
            (await client.post(url, json=rows)).raise_for_status()

    async def send(self, *bodies: bytes) -> None:
        """Send webhooks; return once they are applied."""
        logged = await self.stack.count("event_log")
        for sent in bodies:
            (await self.stack.post_ovoko(sent)).raise_for_status()

        async def are_logged() -> bool:
            return await self.stack.count("event_log") == logged + len(bodies)

        await until(are_logged, "the webhooks are applied")

    def reconcile(self, *arguments: str) -> Done:
        return self.stack.run("reconcile", "ovoko", *arguments, **self.settings)

    async def statuses(self) -> dict[str, str]:
        rows = await self.stack.fetch("SELECT part_id, status FROM parts")
        return {row["part_id"]: row["status"] for row in rows}


@pytest.fixture
async def marketplace(stack: Stack) -> Marketplace:
    made = Marketplace(stack)
    await made.start()
    return made


def applied(done: Done) -> Any:
    assert done.stdout, done.stderr
    return json.loads(done.stdout)["applied"]


async def test_a_missed_webhook_is_reported(marketplace: Marketplace) -> None:
    await marketplace.stack.started_apart()
    await marketplace.lists("parts", part(11, IN_WAREHOUSE), part(12, IN_WAREHOUSE))
    await marketplace.send(webhook(11, "in_warehouse"), webhook(12, "in_warehouse"))
    before = marketplace.reconcile("parts")
    await marketplace.lists("parts", part(12, SOLD))
    after = marketplace.reconcile("parts", "--json")

    report = json.loads(after.stdout)
    assert (before.returncode, after.returncode) == (0, 1), before.stderr + after.stderr
    assert "no differences" in before.stdout
    assert [(one["id"], one["here"], one["there"]) for one in report["differences"]] == [
        ("12", "in_warehouse", "2 (sold)")
    ]


@dataclass
class Applied:
    """Different parts and returns, before and after `reconcile --apply`."""

    without_terminal: Done
    dry_run: Done
    statuses_before: dict[str, str]
    parts: Done
    parts_again: Done
    statuses_after: dict[str, str]
    returns: Done
    returns_again: Done
    contradicted: Done
    explained: Any
    rebuilt: list[Done]
    findings: list[dict[str, Any]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def after_apply(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Applied:
    async with empty_stack(services, tmp_path_factory.mktemp("reconcile")) as stack:
        marketplace = Marketplace(stack)
        await marketplace.start()
        await stack.started_apart()
        return await _apply(marketplace)


async def _apply(marketplace: Marketplace) -> Applied:
    stack, reconcile = marketplace.stack, marketplace.reconcile
    await marketplace.lists(
        "parts", part(11, IN_WAREHOUSE), part(12, SOLD), part(14, RESERVED, external_id="shelf 4")
    )
    await marketplace.lists("returns", listed_return(1, 10), listed_return(3, 30), listed_return(4, 40))
    await marketplace.send(
        *(webhook(part_id, "in_warehouse") for part_id in (11, 12, 13)),
        returned("order.return.created", 2, 20),
        returned("order.return.created", 3, 31),
        returned("order.return.updated", 4, 40),
    )
    without_terminal = reconcile("parts", "--apply")
    dry_run = reconcile("parts", "--apply", "--dry-run")
    statuses_before = await marketplace.statuses()
    parts, parts_again = reconcile("parts", "--apply", "--yes", "--json"), reconcile("parts")
    statuses_after = await marketplace.statuses()
    returns, returns_again = reconcile("returns", "--apply", "--yes", "--json"), reconcile("returns")

    # Events that contradict Ovoko's list: a newer one, and a status that is final.
    now = datetime.now(UTC).isoformat(timespec="seconds")
    await marketplace.send(webhook(12, "returned", now), webhook(11, "written_off"))
    await marketplace.lists("parts", part(12, RETURNED))
    return Applied(
        without_terminal,
        dry_run,
        statuses_before,
        parts,
        parts_again,
        statuses_after,
        returns,
        returns_again,
        contradicted=reconcile("parts", "--apply", "--yes", "--json"),
        explained=json.loads(stack.run("explain", "part", "12", "--json").stdout),
        rebuilt=[stack.run("rebuild", family) for family in ("inventory", "returns")],
        findings=await stack.fetch("SELECT kind, entity_id FROM findings WHERE family = 'inventory'"),
    )


def test_without_a_terminal_apply_needs_yes(after_apply: Applied) -> None:
    assert after_apply.without_terminal.returncode == 2
    assert "without a terminal, give --yes" in after_apply.without_terminal.stderr


def test_a_dry_run_sends_nothing(after_apply: Applied) -> None:
    assert after_apply.dry_run.returncode == 1
    assert "nothing was sent; 3 observations would be" in after_apply.dry_run.stdout
    assert after_apply.statuses_before == dict.fromkeys(("11", "12", "13"), "in_warehouse")


def test_parts_get_the_status_that_ovoko_lists(after_apply: Applied) -> None:
    assert after_apply.parts.returncode == 0, after_apply.parts.stderr
    assert applied(after_apply.parts) == {"sent": 3, "applied": 3, "still_different": []}
    assert after_apply.statuses_after == {
        "11": "in_warehouse",
        "12": "sold",
        "13": "not_listed",
        "14": "reserved",
    }


def test_returns_become_equal_to_ovokos_list(after_apply: Applied) -> None:
    assert after_apply.returns.returncode == 0, after_apply.returns.stderr
    assert applied(after_apply.returns) == {"sent": 4, "applied": 4, "still_different": []}


def test_after_apply_nothing_differs(after_apply: Applied) -> None:
    for again in (after_apply.parts_again, after_apply.returns_again):
        assert again.returncode == 0, again.stdout
        assert "no differences" in again.stdout


def test_a_newer_event_wins_over_an_observation(after_apply: Applied) -> None:
    assert [(step["type"], step["why"]) for step in after_apply.explained["events"]] == [
        ("part.status.changed", "first status of the part"),
        ("stockhook.observed.part", "observed on the marketplace; the newest status wins"),
        ("part.status.changed", "the newest status wins"),
    ]


def test_a_part_that_was_written_off_stays_so(after_apply: Applied) -> None:
    assert after_apply.contradicted.returncode == 1
    assert [one["id"] for one in applied(after_apply.contradicted)["still_different"]] == ["11"]
    assert [(row["kind"], row["entity_id"]) for row in after_apply.findings] == [("after_written_off", "11")]


def test_a_rebuild_ends_in_the_same_rows(after_apply: Applied) -> None:
    assert [done.returncode for done in after_apply.rebuilt] == [0, 0], [
        done.stdout + done.stderr for done in after_apply.rebuilt
    ]


async def test_a_part_that_a_timestamp_in_9999_makes_sellable_is_corrected(marketplace: Marketplace) -> None:
    await marketplace.stack.started_apart()
    await marketplace.send(webhook(13, "in_warehouse", "9999-12-30T00:00:00+00:00"))
    await marketplace.lists("parts", part(13, SOLD))
    done = marketplace.reconcile("parts", "--apply", "--yes", "--json")

    assert (applied(done)["applied"], await marketplace.statuses()) == (1, {"13": "sold"})


async def test_the_answer_no_sends_nothing(marketplace: Marketplace) -> None:
    await marketplace.lists("parts", part(11, IN_WAREHOUSE), part(12, IN_WAREHOUSE))
    done = answer(marketplace, "n", "reconcile", "ovoko", "parts", "--apply")

    assert done.returncode == 1
    assert "Apply 2 parts as the marketplace lists them? [y/N]" in done.stderr
    assert "nothing was sent; 2 observations would be" in done.stdout
    assert await marketplace.stack.depths() == {}


def answer(marketplace: Marketplace, text: str, *arguments: str) -> Done:
    """Run `stockhook` on a terminal, with typed input."""
    keyboard, terminal = pty.openpty()
    try:
        os.write(keyboard, f"{text}\n".encode())
        return subprocess.run(
            [sys.executable, "-m", "worker", *arguments],
            env={**os.environ, **marketplace.stack.environment, **marketplace.settings},
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(keyboard)
        os.close(terminal)


async def test_observations_are_applied_though_the_command_was_killed(marketplace: Marketplace) -> None:
    await observe_and_kill(marketplace, 11, 12, 13)
    await marketplace.stack.started("consume", "inventory")
    await until(lambda: has_parts(marketplace, 3), "the observations are applied")
    again = marketplace.reconcile("parts", "--apply", "--yes")

    assert await marketplace.statuses() == dict.fromkeys(("11", "12", "13"), "in_warehouse")
    assert again.returncode == 0, again.stderr
    assert "no differences" in again.stdout


async def test_an_observation_that_cannot_be_applied_is_a_dead_letter_that_can_be_replayed(
    marketplace: Marketplace,
) -> None:
    stack = marketplace.stack
    await observe_and_kill(marketplace, 11, 12)
    await stack.execute(fail_rows({"parts": "NEW.part_id = '12'"}))
    await stack.started("consume", "inventory", STOCKHOOK_KEEP_DEAD_LETTERS="true")

    async def is_dead() -> bool:
        return await stack.count("dead_letters") == 1

    await until(is_dead, "the observation of part 12 is a dead letter")
    before = await marketplace.statuses()
    [letter] = await stack.fetch("SELECT origin, provenance FROM dead_letters")
    await stack.execute(REMOVE_FAULT)
    replayed = stack.run("dead", "replay", "--all")

    assert before == {"11": "in_warehouse"}
    assert letter == {"origin": "inventory", "provenance": "observation"}
    assert replayed.returncode == 0, replayed.stderr
    await until(lambda: has_parts(marketplace, 2), "the replayed observation is applied")


async def observe_and_kill(marketplace: Marketplace, *part_ids: int) -> None:
    """Reconcile, and kill the command once its observations are in the queue."""
    await marketplace.lists("parts", *(part(part_id, IN_WAREHOUSE) for part_id in part_ids))
    command = marketplace.stack.start(
        "reconcile", "ovoko", "parts", "--apply", "--yes", **marketplace.settings
    )

    async def are_sent() -> bool:
        return (await marketplace.stack.depths()).get("stockhook.inventory") == len(part_ids)

    await until(are_sent, "the observations wait in the queue")
    command.kill()


async def has_parts(marketplace: Marketplace, number: int) -> bool:
    return await marketplace.stack.count("parts") == number
