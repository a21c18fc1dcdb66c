"""The commands that serve, and those that look after what they use."""

import sys
from typing import Any

from consumers.registry import FAMILIES
from worker import migrations
from worker.actions.clients import check_proxies
from worker.audit import PATIENCE_SECONDS, Audit, as_json, as_tables
from worker.audit import audit as run_audit
from worker.broker import Broker
from worker.definitions import definitions as definitions_of
from worker.expected import expected_topology
from worker.grants import grant_tables
from worker.ingest.process import serve
from worker.invocation import FAILED, USAGE, Json, begin, fail, open_database, print_json
from worker.management import Management, vhost_of
from worker.resolver import run_loop
from worker.runtime import consume as run_consumers
from worker.settings import Settings
from worker.status import look, look_at_ingest
from worker.supervisor import obey_parent, run_all
from worker.terminal import say, say_json, show
from worker.topology import Exchange, Queue


def run() -> None:
    """Run the ingest and all families, until SIGTERM or Ctrl-C."""
    settings = begin("run")
    sys.exit(run_loop(run_all(settings)))


def ingest() -> None:
    """Take webhooks in and publish them, until SIGTERM or Ctrl-C."""
    obey_parent()
    serve(begin("ingest"))


def consume(*families: str) -> None:
    """Apply the events of these families, until SIGTERM or Ctrl-C.

    Parameters
    ----------
    families
        inventory, orders, returns, buybacks, reminders; all when none is named.
    """
    unknown = [name for name in families if name not in FAMILIES]
    if unknown:
        fail(USAGE, f"no such family: {', '.join(unknown)}; there are {', '.join(FAMILIES)}")
    obey_parent()
    settings = begin("consume")
    check_proxies(settings)
    run_loop(run_consumers(settings, families or tuple(FAMILIES)))


def migrate() -> None:
    """Bring the database's tables up to date."""
    settings = begin("migrate")

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


def topology(*, check: bool = False, definitions: bool = False, json: Json = False) -> None:
    """Declare exchanges, queues and bindings; safe to repeat.

    Parameters
    ----------
    check
        Declare nothing; compare the live broker with what is expected, exit 1 where it differs.
    definitions
        Declare nothing and ask no broker; print it all as a RabbitMQ definitions file.
    """
    settings = begin("topology")
    if definitions:
        say_json(_definitions(settings), indent=True)
        return
    if not check:
        run_loop(_declare(settings))
        if json:
            print_json({"declared": True})
        else:
            say("declared")
        return
    differences, note = run_loop(_compare(settings))
    if json:
        print_json({"differences": differences, "note": note})
    else:
        for line in differences:
            say(line)
        say(f"{len(differences)} differences" if differences else "as expected")
        if note:
            say(note, file=sys.stderr)
    sys.exit(FAILED if differences else 0)


def status(*, json: Json = False) -> None:
    """Show broker, database, queues with their retry steps, and rows.

    Exits 1 when broker or database cannot be reached.
    """
    settings = begin("status")

    async def ask() -> Any:
        async with open_database(settings, "command") as database:
            return await look(
                _broker(settings), database, settings.delays, settings.ingest_url, settings.webhook_names
            )

    found = run_loop(ask())
    if json:
        print_json(found.as_json())
    else:
        show(found.as_tables())
    sys.exit(0 if found.is_well else FAILED)


def audit(*, json: Json = False, patience: float = PATIENCE_SECONDS) -> None:
    """Account for each accepted event: applied, duplicate, waiting, dead, or missing.

    And for each change that was committed: published, waiting, or missing. Exits 1 when any is missing;
    of events it names stream and place.

    Parameters
    ----------
    patience
        Seconds in which what is in a consumer's hands is to be settled.
    """
    settings = begin("audit")

    async def ask() -> Audit:
        _, spool = await look_at_ingest(settings.ingest_url)
        spooled = None if spool is None else int(spool["events"])
        async with open_database(settings, "command") as database:
            return await run_audit(
                _broker(settings),
                database,
                settings.delays,
                spooled=spooled,
                patience=patience,
                webhooks=settings.webhook_names,
            )

    found = run_loop(ask())
    if json:
        print_json(as_json(found))
    else:
        show(as_tables(found))
    sys.exit(0 if found.is_well else FAILED)


def _definitions(settings: Settings) -> dict[str, Any]:
    return definitions_of(expected_topology(settings), vhost_of(settings.amqp_url.get_secret_value()))


async def _declare(settings: Settings) -> None:
    async with _broker(settings).connection() as link:
        channel = await link.channel()
        await channel.declare(expected_topology(settings))


async def _compare(settings: Settings) -> tuple[list[str], str | None]:
    expected = expected_topology(settings)
    items: list[Exchange | Queue] = [*expected.exchanges, *expected.queues]
    async with _broker(settings).connection() as link:
        found = [await link.difference(item) for item in items]
    differences = [difference for difference in found if difference is not None]
    if settings.management_url is None:
        return differences, "bindings and policies cannot be seen: set STOCKHOOK_MANAGEMENT_URL"
    management = Management(settings.management_url.get_secret_value(), settings.amqp_url.get_secret_value())
    return [*differences, *await management.differences(expected)], None


def _broker(settings: Settings) -> Broker:
    return Broker(settings.amqp_url.get_secret_value(), "command")
