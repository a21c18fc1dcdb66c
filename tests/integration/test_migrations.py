"""Migrations: in order, once, and nothing runs on a database that is behind."""

import asyncio

import asyncpg

from tests.support.stack import Stack
from worker.postgres.migrations import migrate, migrations, pending
from worker.postgres.pool import Database


async def test_migrations_apply_in_order_and_once(fresh_database: str) -> None:
    database = Database(fresh_database, 2, "test")
    before = await pending(database)
    applied = await migrate(database)
    again = await migrate(database)
    await database.close()

    assert before == applied == migrations()
    assert again == []


async def test_two_deployments_at_once_take_turns(fresh_database: str) -> None:
    databases = [Database(fresh_database, 1, "test") for _ in range(3)]
    applied = await asyncio.gather(*map(migrate, databases))
    for database in databases:
        await database.close()

    assert sorted(map(len, applied)) == [0, 0, len(migrations())]


async def test_a_migration_can_be_undone_as_dbmate_would(stack: Stack, fresh_database: str) -> None:
    database = Database(fresh_database, 1, "test")
    await migrate(database)
    async with database.connection() as connection:
        for migration in reversed(migrations()):
            await connection.execute(migration.down)
        left = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await database.close()

    assert [row["tablename"] for row in left] == ["schema_migrations"]


async def test_consumers_refuse_a_database_that_is_behind(stack: Stack, fresh_database: str) -> None:
    refused = stack.run("consume", STOCKHOOK_DATABASE_URL=fresh_database)
    run = stack.run("run", STOCKHOOK_DATABASE_URL=fresh_database)
    sentence = refused.stderr.strip().splitlines()[-1]

    assert refused.returncode == run.returncode == 78
    assert sentence.startswith("stockhook: the database lacks 0001_event_log")
    assert "type `stockhook migrate`" in sentence
    assert "type `stockhook migrate`" in run.stderr


async def test_the_command_says_what_it_did(stack: Stack, fresh_database: str) -> None:
    first = stack.run("migrate", STOCKHOOK_DATABASE_URL=fresh_database)
    second = stack.run("migrate", STOCKHOOK_DATABASE_URL=fresh_database)

    assert first.stdout.splitlines()[0] == "applied 0001_event_log"
    assert second.stdout == "nothing to apply: the database is up to date\n"
    assert first.returncode == second.returncode == 0


async def test_a_log_without_partitions_becomes_one_with_them(fresh_database: str) -> None:
    connection = await asyncpg.connect(fresh_database)
    for migration in migrations()[:4]:
        await connection.execute(migration.up)
    await connection.execute(
        "INSERT INTO event_log (event_id, content_id, provider, type, family, entity_id, occurred_at, "
        "received_at, applied_at, body) "
        "SELECT gen_random_uuid(), gen_random_uuid(), 'ovoko', 'order.created', 'orders', number::text, "
        "now(), now(), now() - number * interval '20 days', '{}' FROM generate_series(1, 9) AS number"
    )
    columns = "seq, event_id, content_id, family, entity_id, occurred_at, received_at, applied_at, body"
    before = await connection.fetch(f"SELECT {columns} FROM event_log ORDER BY seq")

    await connection.execute(migrations()[4].up)
    after = await connection.fetch(
        f"SELECT {columns} FROM event_log JOIN event_ids USING (event_id) ORDER BY seq"
    )
    rest = await connection.fetchval("SELECT count(*) FROM event_log_rest")
    nexts = await connection.fetchval("SELECT nextval('event_log_seq')")
    await connection.execute(migrations()[4].down)
    again = await connection.fetch(f"SELECT {columns} FROM event_log ORDER BY seq")
    await connection.close()

    assert before == after == again
    assert (rest, nexts) == (0, 10)


async def test_what_has_no_month_of_its_own_is_logged_all_the_same(fresh_database: str) -> None:
    connection = await asyncpg.connect(fresh_database)
    for migration in migrations():
        await connection.execute(migration.up)
    await connection.execute(
        "INSERT INTO event_log (event_id, provider, type, family, entity_id, occurred_at, received_at, "
        "applied_at, body) VALUES (gen_random_uuid(), 'ovoko', 'order.created', 'orders', '1', now(), now(), "
        "now() + interval '5 months', '{}')"
    )
    await connection.execute("SELECT add_event_log_months(now(), now() + interval '9 months')")
    held = await connection.fetchval("SELECT count(*) FROM event_log_rest")
    months = await connection.fetchval(
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'event_log'::regclass"
    )
    await connection.close()

    assert held == 1
    assert months in (9 + 1, 10 + 1)


async def test_where_older_dead_letters_came_from_is_derived_on_the_safe_side(fresh_database: str) -> None:
    """Of an observation that a family got by a replay from the quarantine a sender is the origin."""
    observed, hostile = '{"x-event-type":"stockhook.observed.part"}', '{"x-event-type":"c\\u0000d"}'
    database = Database(fresh_database, 1, "test")
    await migrate(database)
    [migration] = [one for one in migrations() if one.name == "0019_provenance"]
    async with database.connection() as connection:
        await connection.execute(migration.down)
        for number, (lane, provider, headers, replay_of) in enumerate(
            (
                ("inventory", "ovoko", observed, None),
                ("inventory", "ovoko", '{"x-event-type":"part.status.changed"}', None),
                ("quarantine", "ovoko", '{"x-event-type":""}', None),
                ("inventory", "ovoko", observed, 3),
                ("inventory", "ovoko", observed, 4),
                ("quarantine", "ovoko", hostile, None),
                ("webhook.shop", None, "{}", None),
            ),
            start=1,
        ):
            await connection.execute(
                "INSERT INTO dead_letters (message_key, lane, event_id, provider, type, reason, fingerprint, "
                "attempts, headers, body, replay_of) VALUES "
                "(gen_random_uuid(), $1, gen_random_uuid(), $2, 'stockhook.observed.part', '', $3, 1, "
                "$4::text::json, '', $5)",
                *(lane, provider, str(number), headers, replay_of),
            )
        await connection.execute(migration.up)
        rows = await connection.fetch("SELECT provenance FROM dead_letters ORDER BY dead_letter_id")
    await database.close()

    assert [row["provenance"] for row in rows] == [
        *("observation", "webhook", "webhook", "webhook", "webhook", "webhook", None)
    ]
