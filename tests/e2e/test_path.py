"""From the webhook to the rows, through real processes."""

import json

from tests.support.stack import OVOKO_SECRET_OLD, Stack, until

SOLD = {
    "event_id": "101aa6a1-ed22-42f0-84ca-1f8a028a2d28",
    "event_type": "part.status.changed",
    "timestamp": "2023-01-12T14:17:20+02:00",
    "event_data": {"part_id": "13", "status": "sold", "id_bridge": "12345", "external_id": None},
}


async def test_a_sold_part_is_a_row(stack: Stack) -> None:
    await stack.started("run")
    answer = await stack.post_ovoko(json.dumps(SOLD).encode(), OVOKO_SECRET_OLD)
    await until(lambda: stack.count("parts"), "the part is there")
    parts = await stack.fetch("SELECT part_id, external_id, status, is_sellable FROM parts")

    assert answer.status_code == 200
    assert answer.json() == {"status": "accepted", "event_id": SOLD["event_id"]}
    assert parts == [{"part_id": "13", "external_id": "12345", "status": "sold", "is_sellable": False}]
