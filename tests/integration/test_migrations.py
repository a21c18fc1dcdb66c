"""Migrations: in order, once, and nothing runs on a database that is behind."""

import asyncio

from tests.stack import Stack
from worker.database import Database
from worker.migrations import migrate, migrations, pending


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
