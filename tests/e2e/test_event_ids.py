"""No sender can suppress another event by its choice of an id; with real processes."""

import json
from uuid import UUID, uuid5

from schemas.events import read_json
from schemas.examples import documented
from schemas.identity import content_id
from schemas.registry import Provider
from tests.support.events import body, part_changed
from tests.support.stack import Stack, until

USED = UUID("101aa6a1-ed22-42f0-84ca-1f8a028a2d28")


def part(event_id: UUID, part_id: str) -> bytes:
    return body({**part_changed(part_id), "event_id": str(event_id)})


async def applied(stack: Stack) -> list[tuple[str, str]]:
    rows = await stack.fetch("SELECT provider, entity_id FROM event_log ORDER BY provider, entity_id")
    return [(row["provider"], row["entity_id"]) for row in rows]


async def test_a_derived_id_equal_to_another_events_id_suppresses_no_event(
    stack: Stack,
) -> None:
    await stack.started_apart()
    content = {
        key: value for key, value in json.loads(part(USED, "2")).items() if not key.startswith("event_t")
    }
    del content["event_id"]
    second_key = uuid5(USED, content_id("part.status.changed", content).hex)
    for number, sent in enumerate((part(USED, "1"), part(second_key, "3"), part(USED, "2")), start=1):
        answer = await stack.post_ovoko(sent)
        assert answer.status_code == 200
        await until(lambda number=number: _is_seen(stack, number), f"event {number} was handled")

    assert await applied(stack) == [("ovoko", "1"), ("ovoko", "2"), ("ovoko", "3")]
    assert await stack.count("parts") == 3
    findings = await stack.fetch("SELECT kind, event_id, message FROM findings")
    assert findings == [
        {
            "kind": "event_id_reused",
            "event_id": USED,
            "message": "sent with different contents; each was applied",
        }
    ]
    audit = json.loads(stack.run("audit", "--json").stdout)
    assert [(one["applied"], one["duplicates"]) for one in audit["accounts"]] == [(3, 0)]


async def test_ids_of_different_marketplaces_never_meet(stack: Stack) -> None:
    """A sender with only the Ovoko secret can compute the id of a buyback event."""
    await stack.started_apart()
    example = next(one for one in documented() if one.provider is Provider.BUYBACK)
    document = read_json(example.body)
    event_id = content_id(document["type"], document["result"])
    await stack.post_ovoko(part(event_id, "1"))
    await until(lambda: _is_seen(stack, 1), "the part's event was handled")
    answer = await stack.post(example.provider, example.body)
    await until(lambda: _is_seen(stack, 2), "the buyback's event was handled")

    assert answer.json()["event_id"] == str(event_id)
    assert [provider for provider, _ in await applied(stack)] == ["buyback", "ovoko"]
    assert await stack.count("buyback_orders") == 1
    assert await stack.fetch("SELECT kind FROM findings WHERE kind = 'event_id_reused'") == []


async def _is_seen(stack: Stack, events: int) -> bool:
    rows = await stack.fetch(
        "SELECT coalesce(sum(applied + duplicates), 0)::int AS events FROM event_sequences"
    )
    return bool(rows[0]["events"] == events)
