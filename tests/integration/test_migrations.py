"""Migrations run once and in order, and no process runs on an outdated database."""

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
    assert "run `stockhook migrate`" in sentence
    assert "run `stockhook migrate`" in run.stderr


async def test_the_command_reports_what_it_did(stack: Stack, fresh_database: str) -> None:
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


async def test_an_event_without_a_partition_for_its_month_is_still_logged(fresh_database: str) -> None:
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
    """An observation that was replayed from the quarantine came from a sender."""
    observed, hostile = '{"x-event-type":"stockhook.observed.part"}', '{"x-event-type":"c\\u0000d"}'
    database = Database(fresh_database, 1, "test")
    await migrate(database)
    *_, migration, renames = [one for one in migrations() if one.version <= "0020"]
    async with database.connection() as connection:
        await connection.execute(renames.down)
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


async def test_the_renames_wait_until_no_consumer_has_a_session(stack: Stack, fresh_database: str) -> None:
    consumer = Database(fresh_database, 1, "stockhook/consumer")
    async with consumer.connection():
        refused = stack.run("migrate", STOCKHOOK_DATABASE_URL=fresh_database)
    await consumer.close()
    applied = stack.run("migrate", STOCKHOOK_DATABASE_URL=fresh_database)

    assert refused.returncode == 75
    assert refused.stderr.startswith(
        "stockhook: 0020_plain_names renames tables, and consumers have sessions"
    )
    assert applied.stdout.startswith("applied 0020_plain_names\n")


async def test_the_renames_keep_every_row_but_those_of_poison_candidates(fresh_database: str) -> None:
    connection = await asyncpg.connect(fresh_database)
    for migration in migrations()[:19]:
        await connection.execute(migration.up)
    await connection.execute(
        """
        INSERT INTO streams (stream, family, seen) VALUES (7, 'orders', '{[1,4)}');
        INSERT INTO suspects (event_id, family, tries) VALUES (gen_random_uuid(), 'orders', 1);
        INSERT INTO change_counts VALUES ('orders', 'committed', 0, 3);
        INSERT INTO findings (kind, family, entity_id, words) VALUES ('kind', 'orders', '1', 'text');
        INSERT INTO dead_letters
            (message_key, lane, event_id, type, reason, fingerprint, attempts, headers, body)
        VALUES (gen_random_uuid(), 'orders', gen_random_uuid(), '', '', '', 1, '{}', '');
        INSERT INTO dead_letter_audit (dead_letter_id, who, action) SELECT dead_letter_id, 'me', 'mended'
        FROM dead_letters;
        """
    )
    await connection.execute(migrations()[19].up)
    rows = [
        await connection.fetchrow(statement)
        for statement in (
            "SELECT source, family, seen::text FROM event_sequences",
            "SELECT count(*) FROM poison_candidates",
            "SELECT family, state, changes FROM change_counts",
            "SELECT message FROM findings",
            "SELECT origin, action FROM dead_letters JOIN dead_letter_audit USING (dead_letter_id)",
        )
    ]
    await connection.execute(migrations()[19].down)
    action = await connection.fetchval("SELECT action FROM dead_letter_audit")
    await connection.close()

    assert [tuple(row.values()) for row in rows] == [
        (7, "orders", "{[1,4)}"),
        (0,),
        ("orders", "committed", 3),
        ("text",),
        ("orders", "repaired"),
    ]
    assert action == "mended"


WITHOUT_COMMENT = """
SELECT relname::text AS table, attname::text AS column
FROM pg_class
LEFT JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
    AND relname <> 'schema_migrations'
    AND (obj_description(pg_class.oid, 'pg_class') IS NULL OR col_description(pg_class.oid, attnum) IS NULL)
"""


async def test_every_table_and_column_has_a_comment(fresh_database: str) -> None:
    database = Database(fresh_database, 1, "test")
    await migrate(database)
    async with database.connection() as connection:
        missing = await connection.fetch(WITHOUT_COMMENT)
    await database.close()

    assert missing == []
