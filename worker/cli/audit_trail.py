"""`stockhook audit-trail`: what operators did, in commands and in the console."""

from typing import Any

from rich.table import Column, Table

from worker.cli.context import Json, WrongUsage, open_database, print_json
from worker.cli.startup import load_context
from worker.cli.terminal import show
from worker.observability.inert_text import visible
from worker.observability.resolver import run_loop
from worker.tools import audit_trail as trail
from worker.tools.audit_trail import BadTrailFilter, Record, TrailFilter


def audit_trail(
    *,
    who: str | None = None,
    action: str | None = None,
    subject: str | None = None,
    since: str | None = None,
    until: str | None = None,
    limit: int = 100,
    json: Json = False,
) -> None:
    """Show who did what, when, to what and why, the newest first.

    Lists what users did to dead letters and families, in commands and in the console. Exits 0 also if
    there is nothing.

    Parameters
    ----------
    who
        Only users whose name contains this text.
    action
        Only actions whose name contains this text, such as `replayed`, `dead_letter` or `family.paused`.
    subject
        Only this dead letter, by its number, or this family.
    since
        Only from this time on: ISO 8601, or `30m`, `12h`, `7d` ago.
    until
        Only before this time.
    limit
        Maximum number of records.
    """
    try:
        wanted = TrailFilter.read(who, action, subject, since, until)
    except BadTrailFilter as fault:
        raise WrongUsage(f"--{fault}") from None
    settings = load_context("audit-trail")

    async def read() -> list[Record]:
        async with open_database(settings, "audit-trail", 1) as database:
            return await trail.select(database, wanted, limit=max(1, limit))

    records = run_loop(read())
    if json:
        print_json([_as_json(record) for record in records])
    else:
        show(_as_table(records))


def _as_json(record: Record) -> dict[str, Any]:
    return {
        "at": record.at,
        "who": record.who,
        "action": record.action,
        "subject": record.subject,
        "reason": record.reason,
    }


def _as_table(records: list[Record]) -> Table:
    shown = Table("at", "who", "action", "subject", Column("reason", overflow="fold"))
    for record in records:
        texts = (record.who, record.action, record.subject, record.reason or "")
        shown.add_row(f"{record.at:%Y-%m-%d %H:%M:%S}", *map(visible, texts))
    return shown
