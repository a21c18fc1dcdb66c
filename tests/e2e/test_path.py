"""From the webhook to the rows, through real processes."""

from tests.support.events import body, ovoko
from tests.support.stack import OVOKO_SECRET_OLD, Stack, until

DATA = {"part_id": "13", "status": "sold", "id_bridge": "12345", "external_id": None}
SOLD = ovoko("part.status.changed", at="2023-01-12T14:17:20+02:00", number=1, **DATA)


async def test_a_sold_part_is_a_row(stack: Stack) -> None:
    await stack.started("run")
    answer = await stack.post_ovoko(body(SOLD), OVOKO_SECRET_OLD)
    await until(lambda: stack.count("parts"), "the part is there")
    parts = await stack.fetch("SELECT part_id, external_id, status, is_sellable FROM parts")

    assert answer.status_code == 200
    assert answer.json() == {"status": "accepted", "event_id": SOLD["event_id"]}
    assert parts == [{"part_id": "13", "external_id": "12345", "status": "sold", "is_sellable": False}]
