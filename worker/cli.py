"""The command line."""

import sys
from importlib.metadata import version
from typing import Any

import asyncpg
import orjson
import uvloop
from cyclopts import App
from rich.console import Console

from consumers.registry import FAMILIES
from worker import migrations
from worker.audit import PATIENCE_SECONDS, Audit, as_json, as_tables
from worker.audit import audit as run_audit
from worker.broker import Broker
from worker.channel import BrokerUnavailable, TopologyMismatch
from worker.database import DatabaseUnavailable, TransactionConflict
from worker.definitions import definitions as definitions_of
from worker.expected import expected_topology
from worker.failure import describe
from worker.grants import grant_tables
from worker.ingest import rsgi
from worker.invocation import (
    FAILED,
    MISCONFIGURED,
    UNAVAILABLE,
    USAGE,
    Json,
    begin,
    fail,
    open_database,
    print_json,
)
from worker.management import Management, ManagementUnavailable, vhost_of
from worker.ops import OpsPortTaken
from worker.runtime import DatabaseBehind, EndedByItself, consume
from worker.settings import BadSettings, Settings
from worker.status import look, look_at_ingest
from worker.supervisor import obey_parent, run_all
from worker.topology import Exchange, Queue

app = App(
    name="stockhook",
    help="Takes marketplace webhooks in, never loses one, and keeps stock and orders in Postgres true.",
    version=lambda: version("stockhook"),
    version_flags=["--version"],
)
# Imported when they are called: no other command needs what they bring.
app.command("worker.send.command:send", name="send")
app.command("worker.dead.command:dead", name="dead")
app.command("worker.health:health", name="health")
app.command("worker.grants:grants", name="grants")
app.command("worker.doctor.command:doctor", name="doctor")
app.command("worker.changes.command:changes", name="changes")
app.command("worker.explain.command:explain", name="explain")
app.command("worker.rebuild.command:rebuild", name="rebuild")
app.command("worker.reconcile.command:reconcile", name="reconcile")
app.command("worker.retention:retain_command", name="retain")
app.command("worker.seller.command:buyback", name="buyback")
app.command("worker.simulate.command:simulate", name="simulate")


@app.command
def run() -> None:
    """Run the ingest and all families, until SIGTERM or Ctrl-C."""
    settings = begin("run")
    sys.exit(uvloop.run(run_all(settings)))


@app.command
def ingest() -> None:
    """Take webhooks in and publish them, until SIGTERM or Ctrl-C."""
    obey_parent()
    rsgi.serve(begin("ingest"))


@app.command(name="consume")
def consume_(*families: str) -> None:
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
    uvloop.run(consume(begin("consume"), families or tuple(FAMILIES)))


@app.command
def migrate() -> None:
    """Bring the database's tables up to date."""
    settings = begin("migrate")

    async def apply() -> list[migrations.Migration]:
        async with open_database(settings, "command") as database:
            applied = await migrations.migrate(database)
            async with database.connection() as connection:
                await grant_tables(connection)
            return applied

    applied = uvloop.run(apply())
    for migration in applied:
        print(f"applied {migration.name}")
    if not applied:
        print("nothing to apply: the database is up to date")


@app.command(name="topology")
def topology_(*, check: bool = False, definitions: bool = False, json: Json = False) -> None:
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
        print(orjson.dumps(_definitions(settings), option=orjson.OPT_INDENT_2).decode())
        return
    if not check:
        uvloop.run(_declare(settings))
        if json:
            print_json({"declared": True})
        else:
            print("declared")
        return
    differences, note = uvloop.run(_compare(settings))
    if json:
        print_json({"differences": differences, "note": note})
    else:
        for line in differences:
            print(line)
        print(f"{len(differences)} differences" if differences else "as expected")
        if note:
            print(note, file=sys.stderr)
    sys.exit(FAILED if differences else 0)


@app.command
def status(*, json: Json = False) -> None:
    """Show broker, database, queues with their retry steps, and rows.

    Exits 1 when broker or database cannot be reached.
    """
    settings = begin("status")

    async def ask() -> Any:
        async with open_database(settings, "command") as database:
            return await look(_broker(settings), database, settings.delays, settings.ingest_url)

    found = uvloop.run(ask())
    if json:
        print_json(found.as_json())
    else:
        Console().print(found.as_tables())
    sys.exit(0 if found.is_well else FAILED)


@app.command
def audit(*, json: Json = False, patience: float = PATIENCE_SECONDS) -> None:
    """Account for each accepted event: applied, duplicate, waiting, dead, or missing.

    Exits 1 when any is missing, and names its stream and place.

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
                _broker(settings), database, settings.delays, spooled=spooled, patience=patience
            )

    found = uvloop.run(ask())
    if json:
        print_json(as_json(found))
    else:
        Console().print(as_tables(found))
    sys.exit(FAILED if found.missing else 0)


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
        return differences, "bindings were not compared: set STOCKHOOK_MANAGEMENT_URL"
    management = Management(settings.management_url.get_secret_value(), settings.amqp_url.get_secret_value())
    return [*differences, *await management.differences(expected)], None


def _broker(settings: Settings) -> Broker:
    return Broker(settings.amqp_url.get_secret_value(), "command")


def main() -> None:
    """Entry point; every expected failure is one sentence and an exit code."""
    try:
        app()
    except (BadSettings, DatabaseBehind, TopologyMismatch, OpsPortTaken) as error:
        fail(MISCONFIGURED, str(error))
    except BrokerUnavailable as error:
        fail(UNAVAILABLE, f"cannot reach the broker ({error}): see STOCKHOOK_AMQP_URL")
    except DatabaseUnavailable as error:
        fail(UNAVAILABLE, f"cannot reach the database ({error}): see STOCKHOOK_DATABASE_URL")
    except (asyncpg.PostgresError, TransactionConflict) as error:
        fail(FAILED, f"it failed: {describe(error)}")
    except EndedByItself as error:
        fail(FAILED, str(error))
    except ManagementUnavailable as error:
        fail(UNAVAILABLE, f"no answer from the management API ({error})")
    except KeyboardInterrupt:
        sys.exit(130)
