"""`stockhook audit`."""

import sys

from rich.console import Group, RenderableType
from rich.table import Table

from worker.amqp.connection import Broker
from worker.cli.change_feed_views import change_counts_as_table, webhooks_as_table
from worker.cli.context import Json, load_context, open_database, print_json
from worker.cli.terminal import show
from worker.observability.exit_codes import FAILED
from worker.observability.resolver import run_loop
from worker.tools.audit import (
    PATIENCE_SECONDS,
    Audit,
    as_json,
    size,
)
from worker.tools.audit import audit as run_audit
from worker.tools.status import look_at_ingest


def audit(*, json: Json = False, patience: float = PATIENCE_SECONDS) -> None:
    """Account for each accepted event: applied, duplicate, waiting, dead, or missing.

    And for each change that was committed: published, waiting, or missing. Exits 1 when any is missing;
    of events it names source and sequence numbers.

    Parameters
    ----------
    patience
        How many seconds consumers have to settle their in-flight deliveries.
    """
    settings = load_context("audit")

    async def ask() -> Audit:
        _, spool = await look_at_ingest(settings.ingest_readiness_urls)
        spooled = None if spool is None else int(spool["events"])
        async with open_database(settings, "command") as database:
            return await run_audit(
                Broker(settings.amqp_url.get_secret_value(), "command"),
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
        show(_as_tables(found))
    sys.exit(0 if found.is_well else FAILED)


def _as_tables(found: Audit) -> RenderableType:
    sequences = Table(
        "family", "source", "accepted", "applied", "duplicate", "retrying", "dead", "unaccounted"
    )
    for column in sequences.columns[2:]:
        column.justify = "right"
    for account in found.accounts:
        numbers = (
            account.accepted,
            account.applied,
            account.duplicates,
            size(account.retrying),
            account.dead,
            size(account.unaccounted),
        )
        sequences.add_row(account.family, str(account.source), *(f"{number:,}" for number in numbers))
    messages = Table("family", "in queue", *_steps(found), "dead", "missing")
    for family, waiting in found.waiting.items():
        lost = found.missing_events.get(family, 0)
        counts = [waiting.queue, *waiting.retry.values(), waiting.dead, lost]
        messages.add_row(family, *(f"{count:,}" for count in counts))
    spooled = "unknown (the ingest does not answer)" if found.spooled is None else f"{found.spooled:,}"
    lines = [
        f"spooled: {spooled}",
        f"quarantined: {found.quarantined:,}",
        f"unhandled: {found.unhandled:,} events of types that no family takes",
    ]
    lines += [
        f"missing: {family}, source {source}, sequence numbers {first} to {last}"
        for family, ranges in found.missing.items()
        for source, first, last in ranges
    ]
    told: list[RenderableType] = [change_counts_as_table(found.feed.families)]
    if found.feed.webhooks:
        told.append(webhooks_as_table(found.feed.webhooks))
    lines += [
        f"missing: {counts.missing:,} changes of {counts.family} are neither published nor waiting"
        for counts in found.feed.families
        if counts.missing
    ]
    return Group(sequences, messages, *told, *lines)


def _steps(found: Audit) -> list[str]:
    return list(next(iter(found.waiting.values())).retry) if found.waiting else []
