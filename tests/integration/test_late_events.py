"""A late event of a part reads its neighbours in the log, however many events the part has."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest

from consumers.family import Event
from consumers.inventory import sequence, store
from consumers.inventory.earlier_events import Reading
from consumers.inventory.part import Part
from consumers.inventory.store import INVENTORY
from tests.support.applied_events import RECEIVED_AT, apply, database_of, in_batches, item
from tests.support.events import claimed, instant, ovoko, part
from tests.support.stack import Stack
from worker.pipeline.decode import Decoded
from worker.postgres.pool import Connection

STATUSES = ("in_warehouse", "reserved", "sold", "sold_in_ebay", "returned", "written_off", "lent")

PARTS = """
SELECT part_id, external_id, external_id_at, status, occurred_at, event_id, has_implausible
FROM parts
ORDER BY part_id
"""

FINDINGS = "SELECT family, kind, entity_id, event_id, message FROM findings ORDER BY 1, 2, 3, 4"

# Each of three months has events of all times.
HISTORY = """
SELECT add_event_log_months(now() - interval '60 days', now());
INSERT INTO event_log
    (event_id, provider, type, family, entity_id, occurred_at, received_at, applied_at, body)
SELECT gen_random_uuid(), 'ovoko', 'part.status.changed', 'inventory', '13', at, at,
    now() - (number % 3) * interval '30 days',
    convert_to(
        json_build_object(
            'event_type', 'part.status.changed', 'timestamp', at,
            'event_data', json_build_object('part_id', '13', 'status', 'reserved')
        )::text, 'UTF8'
    )
FROM generate_series(1, {events}) AS number,
    LATERAL (SELECT '2026-03-01T12:00:00Z'::timestamptz + number * interval '{every}' AS at) AS times;
INSERT INTO parts (part_id, status, occurred_at, event_id, revision)
SELECT '13', 'reserved', occurred_at, event_id, 1
FROM event_log
ORDER BY occurred_at DESC, event_id DESC
LIMIT 1;
"""


class Counted:
    """A connection that counts the rows that it returned."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.rows = 0

    async def fetch(self, query: str, *args: object) -> list[Any]:
        rows = await self.connection.fetch(query, *args)
        self.rows += len(rows)
        return rows

    async def execute(self, query: str, *args: object) -> str:
        return await self.connection.execute(query, *args)


def random_events(seed: int, count: int) -> list[Decoded]:
    """Events of two parts with ties, ids that are used twice, implausible timestamps and observations."""
    rng = random.Random(seed)

    def one() -> Decoded:
        at = RECEIVED_AT + timedelta(seconds=rng.randrange(12), hours=rng.choice((0, 0, 0, 0, 0, 2)))
        observed = rng.random() < 0.2
        kind = "stockhook.observed.part" if observed else "part.status.changed"
        # A part is rarely written off, because not much happens to it afterwards.
        status = rng.choice(STATUSES if rng.random() < 0.2 else STATUSES[:5])
        document = ovoko(
            kind, at.isoformat(), part_id=rng.choice("12"), status=status, external_id=rng.choice((None, "a"))
        )
        name = rng.randrange(10_000) if rng.random() < 0.95 or observed else rng.randrange(3)
        decoded = item(document, UUID(int=name + (1 << 64) * observed))
        received_at = RECEIVED_AT + timedelta(seconds=rng.randrange(12))
        envelope = decoded.candidate.envelope.model_copy(update={"received_at": received_at})
        return replace(decoded, candidate=replace(decoded.candidate, envelope=envelope))

    return [one() for _ in range(count)]


async def tables(stack: Stack) -> tuple[list[Any], list[Any]]:
    return await stack.fetch(PARTS), await stack.fetch(FINDINGS)


@pytest.mark.parametrize("seed", range(6))
async def test_neighbours_lead_to_the_same_tables_as_all_events(
    stack: Stack, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence, "MOST_AT_ONCE", (3, 50)[seed % 2])
    events = random_events(seed, 60)

    def read_everything(part: Part, new: list[Event[Any]]) -> Reading:
        return Reading(everything=True)

    await apply(stack, "inventory", *in_batches(events, (1, 7, 60)[seed % 3]))
    by_neighbours = await tables(stack)
    rebuilt = stack.run("rebuild", "inventory", "--json") if seed % 2 else None
    await stack.execute("TRUNCATE event_ids, reused_event_ids, event_log, parts, findings")
    monkeypatch.setattr(store, "reading", read_everything)
    random.Random(seed).shuffle(events)
    await apply(stack, "inventory", *in_batches(events, 5))

    assert by_neighbours == await tables(stack)
    assert rebuilt is None or orjson.loads(rebuilt.stdout)["differences"] == []


@pytest.mark.parametrize("every", ["1 second", "0 seconds"])
async def test_a_late_event_fetches_a_constant_number_of_rows(stack: Stack, every: str) -> None:
    await stack.execute(HISTORY.format(events=2000, every=every))
    late = claimed(part("sold", 1000.5 if every == "1 second" else 0), "late", 5000)
    async with database_of(stack) as database, database.connection() as connection:
        counted = Counted(connection)
        await INVENTORY.load(counted, [late], lock=False)

    # The part's row, and the neighbours; of a crowded instant as many as show that it is crowded.
    assert counted.rows <= (1 + 2 if every == "1 second" else 1 + sequence.MOST_AT_ONCE + 2)


def read_from_log(plan: Any) -> Iterator[int]:
    if plan.get("Relation Name", "").startswith("event_log"):
        read = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
        yield read * plan["Actual Loops"]
    for child in plan.get("Plans", []):
        yield from read_from_log(child)


@pytest.mark.parametrize("analyzed", [False, True])
@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
async def test_neighbours_are_read_by_the_index_of_each_month(
    stack: Stack, analyzed: bool, mode: str
) -> None:
    await stack.execute(HISTORY.format(events=2000, every="1 second"))
    if analyzed:
        await stack.execute("ANALYZE event_log")
    async with database_of(stack) as database, database.connection() as connection:
        await connection.execute(f"SET plan_cache_mode = {mode}")
        await connection.execute(f"PREPARE nearby AS {store.LOAD_NEARBY}")
        instants = ", ".join(f"'{instant(number + 0.5)}'" for number in (0, 1000, 3000))
        [row] = await connection.fetch(
            "EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE "
            f"nearby(ARRAY['13', '13', '13'], ARRAY[{instants}]::timestamptz[], '1 hour', 52)"
        )
        await connection.execute("DEALLOCATE nearby")
    rows = sum(read_from_log(orjson.loads(row[0])[0]["Plan"]))

    # Three events have at most five near instants; a month gives at most one event for each of them.
    assert 0 < rows <= 3 * 3 * 3


async def test_rows_of_an_earlier_release_are_read_in_full_once(stack: Stack) -> None:
    """It wrote no summary: neither of parts that were written off nor of implausible timestamps."""
    far = ovoko("part.status.changed", "9999-12-30T00:00:00+00:00", part_id="14", status="sold")
    gone = ovoko("part.status.changed", RECEIVED_AT.isoformat(), part_id="13", status="written_off")
    await apply(stack, "inventory", [item(far), item(gone)])
    await stack.execute("UPDATE parts SET summary = NULL")
    fetched = []
    for second in range(3):
        at = (RECEIVED_AT - timedelta(seconds=second)).isoformat()
        await apply(
            stack,
            "inventory",
            [
                item(ovoko("part.status.changed", at, part_id=name, status="reserved"))
                for name in ("13", "14")
            ],
        )
        rows = await stack.fetch("SELECT revision, summary FROM parts ORDER BY part_id")
        fetched.append([orjson.loads(row["summary"])["revision"] - row["revision"] for row in rows])

    assert fetched == [[0, 0]] * 3
    assert await stack.fetch("SELECT part_id, status FROM parts ORDER BY part_id") == [
        {"part_id": "13", "status": "written_off"},
        {"part_id": "14", "status": "sold"},
    ]


async def test_a_row_that_an_earlier_release_changed_since_has_no_valid_summary(stack: Stack) -> None:
    gone = ovoko("part.status.changed", RECEIVED_AT.isoformat(), part_id="13", status="written_off")
    await apply(stack, "inventory", [item(gone)])
    await stack.execute("UPDATE parts SET revision = revision + 1")
    async with database_of(stack) as database, database.connection() as connection:
        loaded = await INVENTORY.load(connection, [claimed(part("sold"), "late", 5000)], lock=False)

    assert loaded["13"].is_current is False
    assert loaded["13"].recomputed is not None
    assert loaded["13"].recomputed.written_off_since == RECEIVED_AT
