"""`stockhook migrate`."""

from worker.cli.context import open_database
from worker.cli.startup import load_context
from worker.cli.terminal import say
from worker.observability.resolver import run_loop
from worker.postgres import migrations
from worker.tools.permissions import grant_tables


def migrate() -> None:
    """Bring the database's tables up to date."""
    settings = load_context("migrate")

    async def apply() -> list[migrations.Migration]:
        async with open_database(settings, "command") as database:
            applied = await migrations.migrate(database)
            async with database.connection() as connection:
                await grant_tables(connection)
            return applied

    applied = run_loop(apply())
    for migration in applied:
        say(f"applied {migration.name}")
    if not applied:
        say("nothing to apply: the database is up to date")
