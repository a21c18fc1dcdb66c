"""A webhook that never came is found by asking the marketplace: all as processes, by their commands."""

import json
import re
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx

from tests.stack import Stack, Worker, until

HOUR_AGO = (datetime.now(UTC) - timedelta(hours=1)).isoformat(timespec="seconds")


def webhook(part_id: int, status: str) -> bytes:
    event = {
        "event_id": str(uuid4()),
        "event_type": "part.status.changed",
        "timestamp": HOUR_AGO,
        "event_data": {"part_id": str(part_id), "status": status, "external_id": None},
    }
    return json.dumps(event).encode()


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
