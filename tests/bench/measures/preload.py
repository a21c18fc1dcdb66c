"""Tables of the size that they have after years. Only this module inserts rows without events."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import asyncpg

from tests.bench.plan import Bench
from tests.bench.processes import Failed
from tests.bench.world import World
from worker.postgres.migrations import migrate
from worker.postgres.pool import Database

EVENTS_PER_PART = 4

# Partitions of the event log for the whole time.
MONTHS = "SELECT add_event_log_months(now() - interval '2 years', now())"

# Event ids are random, as senders create them, so that the indexes have a realistic structure.
LOG = """
INSERT INTO event_log
    (event_id, provider, type, family, entity_id, occurred_at, received_at, applied_at, evidence, body)
SELECT gen_random_uuid(), 'ovoko', 'part.status.changed', 'inventory', part_id, at, at, at,
       CASE WHEN $3 THEN jsonb_build_object(
           'gateway_event', 'evt_' || md5(number::text), 'gateway_attempt', 1,
           'gateway_request', 'req_' || md5('request' || number), 'request_id', md5('proxy' || number))
       END,
       convert_to(format(
           '{"event_id": "%s", "event_type": "part.status.changed", "timestamp": "%s", '
           '"event_data": {"part_id": "%s", "status": "sold", "id_bridge": "SKU-%s", "external_id": null}}',
           gen_random_uuid(), to_char(at, 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"'), part_id, part_id), 'UTF8')
FROM (
    SELECT number,
           CASE
               WHEN $3 AND number % 20 = 0 THEN 'long'
               WHEN $3 AND number % 20 = 1 AND number <= 3000 THEN 'short'
               ELSE (1000000000 + number % ($1::bigint / $2::bigint) * 20)::text
           END AS part_id,
           now() - interval '2 years' * (number / $1::float8) AS at
    FROM generate_series($1::bigint, 1, -1) AS number
) AS events
"""

# The statuses follow each other as documented, so that no step is a finding.
HOT_LOG = """
INSERT INTO event_log
    (event_id, provider, type, family, entity_id, occurred_at, received_at, applied_at, body)
SELECT (body->>'event_id')::uuid, 'ovoko', 'part.status.changed', 'inventory', $2, at, at, at,
       convert_to(body::text, 'UTF8')
FROM (
    SELECT at, jsonb_build_object(
        'event_id', gen_random_uuid(), 'event_type', 'part.status.changed',
        'timestamp', to_char(at, 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"'),
        'event_data', jsonb_build_object(
            'part_id', $2::text, 'status', ($3::text[])[1 + ($1::bigint - number) % cardinality($3::text[])],
            'id_bridge', 'SKU-1', 'external_id', NULL)) AS body
    FROM (
        SELECT number, date_trunc('second', now() - interval '2 years' * (number / $1::float8)) AS at
        FROM generate_series($1::bigint, 1, -1) AS number
    ) AS instants
) AS events
"""

IDS = """
INSERT INTO event_ids (event_id, content_id, received_at)
SELECT event_id, gen_random_uuid(), received_at
FROM event_log
"""

PARTS = """
INSERT INTO parts (part_id, external_id, external_id_at, status, occurred_at, event_id, revision)
SELECT (1000000000 + number * 20)::text, 'SKU-' || number, timestamptz '2020-01-01', 'sold',
       timestamptz '2020-01-01', gen_random_uuid(), $2::bigint
FROM generate_series(0, $1::bigint / $2::bigint - 1) AS number
"""


HOT_PART = "1000000000"
HOT_STATUSES = ("in_warehouse", "reserved", "sold", "returned")


@dataclass(frozen=True, slots=True)
class Size:
    rows: int

    @property
    def name(self) -> str:
        return f"{self.rows:,} rows"

    @property
    def template(self) -> str:
        return f"bench_{self.rows}"


@dataclass(frozen=True, slots=True)
class HotPart(Size):
    """All rows of the log are of one part."""

    @property
    def name(self) -> str:
        return f"{self.rows:,} logged events"

    @property
    def template(self) -> str:
        return f"bench_hot_{self.rows}"


async def make_templates(bench: Bench, step: str, sizes: Sequence[Size], rebuilt: str) -> None:
    """Raises as `make_template` does."""
    for number, size in enumerate(sizes):
        bench.show.step(step, size.name, number, len(sizes))
        await make_template(bench.world, size, rebuilt)
    bench.show.done(step, len(sizes))


async def make_template(
    world: World, size: Size, rebuilt: str | None = None, *, is_for_console: bool = False
) -> None:
    """Create a template database with this many rows in the event log; each run copies it.

    A hot part has its row in `parts` from the rebuild.

    The parts do not belong to the log's events, unless the family will be rebuilt. For the console, each
    event has the evidence of a gateway, the part `long` has each twentieth event, and the part `short` 150.

    Raises:
        Failed: Rows are missing, because the tables have changed.
    """
    await world.database.execute(f"DROP DATABASE IF EXISTS {size.template}")
    await world.database.execute(f"CREATE DATABASE {size.template}")
    url = _url(world, size.template)
    database = Database(url, 1, "bench")
    await migrate(database)
    await database.close()
    connection = await asyncpg.connect(url)
    try:
        if size.rows:
            await connection.execute(MONTHS)
            if isinstance(size, HotPart):
                await connection.execute(HOT_LOG, size.rows, HOT_PART, HOT_STATUSES, timeout=None)
            else:
                await connection.execute(LOG, size.rows, EVENTS_PER_PART, is_for_console, timeout=None)
                await connection.execute(PARTS, size.rows, EVENTS_PER_PART, timeout=None)
            await connection.execute(IDS, timeout=None)
        if rebuilt is not None:
            made = replace(world, services=replace(world.services, database_url=url))
            await made.finished("rebuild", rebuilt, "--swap", "--json")
        await connection.execute("VACUUM (ANALYZE, FREEZE)", timeout=None)
        await _check(connection, size)
    finally:
        await connection.close()


async def _check(connection: "asyncpg.Connection[asyncpg.Record]", size: Size) -> None:
    events = await connection.fetchval("SELECT count(*) FROM event_log JOIN event_ids USING (event_id)")
    parts = await connection.fetchval("SELECT count(*) FROM parts")
    expected = 1 if isinstance(size, HotPart) else size.rows // EVENTS_PER_PART
    if (events, parts) != (size.rows, expected):
        raise Failed(f"preloading: wanted {size.name}, found {events} events and {parts} parts")


@asynccontextmanager
async def copied(world: World, size: Size) -> AsyncIterator[World]:
    """The same world with a fresh copy of the template as its database."""
    name = "bench_run"
    await world.database.execute(f"CREATE DATABASE {name} TEMPLATE {size.template} STRATEGY file_copy")
    await world.database.execute("CHECKPOINT")
    url = _url(world, name)
    connection = await asyncpg.connect(url)
    try:
        yield replace(world, database=connection, services=replace(world.services, database_url=url))
    finally:
        await connection.close()
        await world.database.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _url(world: World, name: str) -> str:
    return urlsplit(world.services.database_url)._replace(path=f"/{name}").geturl()
