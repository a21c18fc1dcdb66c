"""`stockhook status`."""

import sys
from datetime import timedelta
from typing import Any

from rich.console import Group, RenderableType

from worker.amqp.connection import Broker
from worker.cli.change_feed_views import change_counts_as_table, left_behind_lines, webhooks_as_table
from worker.cli.context import Json, open_database, print_json
from worker.cli.startup import load_context
from worker.cli.terminal import hours_minutes_seconds, show, table_of_numbers
from worker.observability.exit_codes import FAILED
from worker.observability.resolver import run_loop
from worker.tools.status import Status, query_status


def status(*, json: Json = False) -> None:
    """Show broker, database, queues with their retry queues, and rows.

    Exits 1 if broker or database cannot be reached.
    """
    settings = load_context("status")

    async def run() -> Status:
        async with open_database(settings, "command") as database:
            broker = Broker(settings.amqp_url.get_secret_value(), "command")
            return await query_status(broker, database, settings)

    result = run_loop(run())
    if json:
        print_json(result.as_json())
    else:
        show(as_tables(result))
    sys.exit(0 if result.is_well else FAILED)


def as_tables(status: Status) -> RenderableType:
    steps = list(status.families[0].retry) if status.families else []
    queues = table_of_numbers("family", "waiting", *steps, "dead", "kept", "consumers", "oldest\nat most")
    for family in status.families:
        numbers = (family.queue, *family.retry.values(), family.dead)
        queues.add_row(
            family.family,
            *("missing" if number is None else f"{number:,}" for number in numbers),
            f"{family.dead_kept:,}",
            str(family.consumers),
            _age(family.oldest_waiting_seconds),
        )
    rows = table_of_numbers("table", "rows")
    for name, count in status.rows.items():
        rows.add_row(name, f"{count:,}")
    quarantine = "missing" if status.quarantine is None else f"{status.quarantine:,}"
    webhooks: list[RenderableType] = []
    if status.webhooks:
        webhooks = [webhooks_as_table(status.webhooks), *left_behind_lines(status.webhooks), ""]
    return Group(
        f"broker: {status.broker}",
        f"database: {status.database}",
        f"ingest: {status.ingest}",
        f"spool: {_spool(status.spool)}",
        f"quarantine: {quarantine}, kept: {status.quarantine_kept:,}",
        f"unhandled: {status.unhandled.as_text()}",
        *(f"{family.family} is {family.paused}" for family in status.families if family.paused),
        "",
        queues,
        "",
        change_counts_as_table(status.changes),
        "",
        *webhooks,
        rows,
    )


def _spool(spool: dict[str, Any] | None) -> str:
    if spool is None:
        return "unknown"
    if not spool["events"]:
        return "empty"
    oldest = timedelta(seconds=round(spool["oldest_seconds"] or 0))
    return f"{spool['events']:,} events, {spool['bytes']:,} bytes, the oldest {oldest} old"


def _age(seconds: float | None) -> str:
    return "" if seconds is None else hours_minutes_seconds(timedelta(seconds=seconds))
