"""The statements of a batch find their rows by key in tables of any size."""

import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import orjson
import pytest

from consumers.buybacks import store as buybacks
from consumers.inventory import store as inventory
from consumers.orders import store as orders
from consumers.reminders import store as reminders
from consumers.returns import store as returns
from tests.support.stack import TABLES, Stack
from worker.outbox import action_list, batch_end
from worker.outbox import actions as table
from worker.outbox import changes as outbox
from worker.postgres import event_log, findings, poison
from worker.postgres.pool import Connection, Database

ROWS = 20_000

FILL = f"""
INSERT INTO event_ids SELECT gen_random_uuid(), gen_random_uuid() FROM generate_series(1, {ROWS});
INSERT INTO event_log (event_id, provider, type, family, entity_id, occurred_at, received_at, body)
SELECT event_id, 'ovoko', 'part.status.changed', 'inventory', left(event_id::text, 4), now(), now(), ''
FROM event_ids;
INSERT INTO parts (part_id, status, occurred_at, event_id, revision)
SELECT number::text, 'sold', now(), gen_random_uuid(), 1 FROM generate_series(1, {ROWS}) AS number;
INSERT INTO orders (order_id, created_at, revision)
SELECT number::text, now(), 1 FROM generate_series(1, {ROWS}) AS number;
INSERT INTO findings (kind, family, entity_id, event_id, message)
SELECT 'reused', 'inventory', number::text, gen_random_uuid(), '' FROM generate_series(1, {ROWS}) AS number;
INSERT INTO changes (family, size, changes) SELECT 'inventory', 1, '' FROM generate_series(1, {ROWS});
INSERT INTO actions (kind, key, subject, request, state, published_at)
SELECT 'buyback.dropoff_request', number::text, number::text, '', 'done', now()
FROM generate_series(1, {ROWS}) AS number;
ANALYZE;
"""


def _statements(*modules: ModuleType) -> Iterator[tuple[str, str]]:
    for module in modules:
        for name, value in vars(module).items():
            if isinstance(value, str) and name.isupper() and "$1" in value:
                yield f"{module.__name__}.{name}", value


HOT = dict(
    _statements(
        event_log,
        findings,
        poison,
        batch_end,
        outbox,
        table,
        action_list,
        inventory,
        orders,
        returns,
        reminders,
        buybacks,
    )
)

# Statements of operators may read all rows.
del HOT["worker.outbox.action_list.LIST"]


def scanned_whole(plan: Any) -> Iterator[str]:
    if plan["Node Type"] == "Seq Scan":
        yield plan["Relation Name"]
    for child in plan.get("Plans", []):
        yield from scanned_whole(child)


async def plan(connection: Connection, statement: str) -> Any:
    """The generic plan after several runs of a statement."""
    parameters = max(int(number) for number in re.findall(r"\$(\d+)", statement))
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    await connection.execute(f"PREPARE hot AS {statement}")
    nulls = ", ".join(["NULL"] * parameters)
    rows = await connection.fetch(f"EXPLAIN (FORMAT JSON) EXECUTE hot({nulls})")
    await connection.execute("DEALLOCATE hot")
    return orjson.loads(rows[0][0])[0]["Plan"]


def test_every_family_and_table_is_looked_at() -> None:
    assert len(HOT) >= 20
    assert {
        "worker.postgres.event_log.CLAIM",
        "worker.outbox.changes.CLAIM",
        "consumers.inventory.store.LOAD_HISTORY",
    } <= HOT.keys()


@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
async def test_no_statement_of_a_batch_reads_a_whole_table(stack: Stack, filled: bool) -> None:
    # As in a new database. The planner assumes that a table stays empty if it was empty during a vacuum, and
    # may read it completely until the next ANALYZE. This is not tested.
    await stack.execute(f"TRUNCATE {TABLES} CASCADE")
    if filled:
        await stack.execute(FILL)
    database = Database(stack.environment["STOCKHOOK_DATABASE_URL"], 1, "test")
    async with database.connection() as connection:
        scans = {
            name: whole
            for name, statement in HOT.items()
            if (whole := list(scanned_whole(await plan(connection, statement))))
        }
    await database.close()

    assert scans == {}
