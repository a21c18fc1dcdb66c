"""Long tests: an hour's outage in the spool, a hundred graceful stops (`make test-long`)."""

import asyncio
import json
import subprocess
from pathlib import Path
from time import monotonic

import pytest

from deploy.local.services import Services
from tests.e2e.test_stopping import stop_under_load
from tests.support.stack import Stack, until

pytestmark = pytest.mark.long

# An hour at 20 events per second, sent in a tenth of the time or less.
EVENTS = 72_000
RATE = 400
DEADLINE_SECONDS = 3600
STOPS = 100


def accepted_ids(output: Path) -> set[str]:
    return {json.loads(line)["event_id"] for line in output.read_text().splitlines()}


async def send(stack: Stack, output: Path) -> subprocess.CompletedProcess[str]:
    arguments = ["--rate", str(RATE), "--seconds", str(EVENTS // RATE), "--seed", "7", "--json"]
    return await asyncio.to_thread(stack.run, "send", *arguments, "--output", str(output))


async def test_an_hours_outage_is_drained_and_nothing_is_lost(
    stack: Stack, services: Services, tmp_path: Path
) -> None:
    node = services.rabbitmq
    assert node is not None
    await stack.started("run")
    node.kill()
    try:
        sent = await send(stack, tmp_path / "accepted.jsonl")
        spooled = (await stack.look("/readyz")).json()["spool"]
    finally:
        await asyncio.to_thread(node.start)
    back = monotonic()

    async def is_drained() -> bool:
        return (await stack.look("/readyz")).json()["spool"]["events"] == 0

    await until(is_drained, "the spool is drained", DEADLINE_SECONDS)
    drained = monotonic() - back
    accepted = accepted_ids(tmp_path / "accepted.jsonl")

    async def all_applied() -> bool:
        return await stack.count("event_log") >= len(accepted) and not await stack.depths()

    await until(all_applied, "all are applied", DEADLINE_SECONDS)
    applied = monotonic() - back
    logged = {str(row["event_id"]) for row in await stack.fetch("SELECT event_id FROM event_log")}
    audited = stack.run("audit", "--json")
    print(f"{sent.stdout}\nspooled {spooled['events']:,} of {len(accepted):,} accepted")
    print(f"drained in {drained:.1f} s, applied in {applied:.1f} s, lost {len(accepted - logged)}")

    assert sent.returncode == 0, sent.stdout
    assert spooled["events"] >= EVENTS - RATE
    assert accepted <= logged
    assert audited.returncode == 0, audited.stdout


async def test_a_hundred_graceful_stops_repeat_nothing_that_was_finished(stack: Stack) -> None:
    await stop_under_load(stack, STOPS)
