"""`make demo` runs to its end on the tests' services."""

import asyncio
import io
import subprocess
import sys

import pytest
from rich.console import Console

from deploy.local.demo import show
from deploy.local.scenes import SceneFailed, Stage
from deploy.local.services import CHECKOUT, DEMO, Services, locked
from tests.support.stack import Stack
from worker.simulator.router import Simulation
from worker.simulator.server import serving


async def test_every_scene_runs_and_its_output_matches_the_tables(services: Services, stack: Stack) -> None:
    written = io.StringIO()
    console = Console(file=written, width=112)
    await asyncio.to_thread(show, services, stack.folder, console, print)
    shown = written.getvalue()
    [order] = await stack.fetch("SELECT status, account_number_ending FROM buyback_orders")
    shipments = await stack.fetch("SELECT is_reschedule FROM buyback_shipments ORDER BY pickup_starts_at")
    [part] = await stack.fetch("SELECT status FROM parts")

    assert order["status"] == "closed"
    assert order["account_number_ending"] is not None
    assert sorted(row["is_reschedule"] for row in shipments) == [False, True]
    assert part["status"] == "in_warehouse"
    assert await stack.count("findings") == await stack.count("dead_letters") == 0
    assert await stack.fetch(
        "SELECT kind, state, count(*) AS actions FROM actions GROUP BY 1, 2 ORDER BY 1"
    ) == [
        {"kind": "buyback.rerequest_pickup", "state": "done", "actions": 1},
        {"kind": "ovoko.part_details", "state": "done", "actions": 1},
        {"kind": "ovoko.return_details", "state": "done", "actions": 3},
    ]
    for text in (
        "an action requested a new pickup",
        "the API returned the items and their amounts",
        "$ stockhook actions list",
        "$ stockhook explain buyback",
        "CollectionItemPickupMissedEvent",
        "status: missed_pickup -> pickup_scheduled",
        "$ stockhook explain part 13",
        "status: sold -> returned",
        "$ stockhook status",
        "$ stockhook audit",
        "each webhook has 2 signatures",
        "the ingest answered each with 200",
    ):
        assert text in shown


async def test_a_failed_scene_names_the_missing_result() -> None:
    async with serving(Simulation({})) as port:
        url = f"http://127.0.0.1:{port}"
        stage = Stage(Console(file=io.StringIO()), {}, url, url)
        with pytest.raises(SceneFailed, match="unknown/control: "):
            await stage.at_marketplace("unknown/control")
    with pytest.raises(SceneFailed, match=r"stockhook explain ended with 2"):
        stage.command("explain", "whale", "1")


def test_two_demos_at_once_are_refused() -> None:
    DEMO.mkdir(parents=True, exist_ok=True)
    with locked(DEMO):
        done = subprocess.run(
            [sys.executable, "-m", "deploy.local", "demo"],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert done.returncode == 1
    assert "already running here" in done.stderr
