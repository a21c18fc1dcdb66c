"""`stockhook audit`."""

import sys

from rich.console import Group, RenderableType

from worker.amqp.connection import Broker
from worker.cli.change_feed_views import change_counts_as_table, left_behind_lines, webhooks_as_table
from worker.cli.context import Json, open_database, print_json
from worker.cli.startup import load_context
from worker.cli.terminal import show, table_of_numbers
from worker.observability.exit_codes import FAILED
from worker.observability.resolver import run_loop
from worker.tools.audit import (
    PATIENCE_SECONDS,
    Audit,
    as_json,
    size,
)
from worker.tools.audit import audit as run_audit
from worker.tools.status import query_ingest


def audit(*, json: Json = False, patience: float = PATIENCE_SECONDS) -> None:
    """Account for each accepted event: applied, duplicate, waiting, dead, or missing.

    Also account for each committed change: published, waiting, or missing. Exits 1 if any is missing. Missing
    events are named by source and sequence number.

    Parameters
    ----------
    patience
        How many seconds consumers have to settle their in-flight deliveries.
    """
    settings = load_context("audit")

    async def run() -> Audit:
        _, spool = await query_ingest(settings.ingest_readiness_urls)
        spooled = None if spool is None else int(spool["events"])
        async with open_database(settings, "command") as database:
            return await run_audit(
                Broker(settings.amqp_url.get_secret_value(), "command"),
                database,
                settings,
                spooled=spooled,
                patience=patience,
            )

    result = run_loop(run())
    if json:
        print_json(as_json(result))
    else:
        show(as_tables(result))
    sys.exit(0 if result.is_well else FAILED)


def as_tables(result: Audit) -> RenderableType:
    sequences = table_of_numbers(
        "family", "source", "accepted", "applied", "duplicate", "retrying", "dead", "unseen", names=2
    )
    for account in result.accounts:
        numbers = (
            account.accepted,
            account.applied,
            account.duplicates,
            size(account.retrying),
            account.dead,
            size(account.unaccounted),
        )
        sequences.add_row(account.family, str(account.source), *(f"{number:,}" for number in numbers))
    messages = table_of_numbers("family", "in queue", *_steps(result), "dead", "missing")
    for family, waiting in result.waiting.items():
        lost = result.missing_events.get(family, 0)
        counts = [waiting.queue, *waiting.retry.values(), waiting.dead, lost]
        messages.add_row(family, *(f"{count:,}" for count in counts))
    spooled = "unknown (the ingest does not answer)" if result.spooled is None else f"{result.spooled:,}"
    lines = [
        "unseen: events that no consumer has handled; they wait, are in flight, or are missing",
        f"spooled: {spooled}",
        f"quarantined: {result.quarantined:,}",
        f"unhandled: {result.unhandled:,} events of types that no family handles",
    ]
    lines += [
        f"missing: {family}, source {source}, sequence numbers {first} to {last}"
        for family, ranges in result.missing.items()
        for source, first, last in ranges
    ]
    tables: list[RenderableType] = [change_counts_as_table(result.feed.families)]
    if result.feed.webhooks:
        tables.append(webhooks_as_table(result.feed.webhooks))
    lines += [
        f"missing: {counts.missing:,} changes of {counts.family} are neither published nor waiting"
        for counts in result.feed.families
        if counts.missing
    ]
    lines += left_behind_lines(result.feed.webhooks)
    return Group(*(part for table in (sequences, messages, *tables) for part in (table, "")), *lines)


def _steps(result: Audit) -> list[str]:
    return list(next(iter(result.waiting.values())).retry) if result.waiting else []
