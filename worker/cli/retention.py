"""`stockhook retain`: delete data that is past its days; consumers do the same once a day."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from worker.cli.context import Flag, Json, fail, open_database, print_json
from worker.cli.startup import load_context
from worker.cli.terminal import say
from worker.config.settings import Settings
from worker.observability.exit_codes import FAILED
from worker.observability.resolver import run_loop
from worker.postgres.retention import Retained
from worker.postgres.retention import retain as drop_old


def retain(*, dry_run: Flag = False, json: Json = False) -> None:
    """Delete months of the event log, handled dead letters, their jobs and unhandled events past their days.

    STOCKHOOK_EVENT_LOG_DAYS, STOCKHOOK_DEAD_LETTER_DAYS and STOCKHOOK_UNHANDLED_DAYS set the numbers of days;
    0 means no limit. Consumers do the same once a day, and continue to work meanwhile.

    Parameters
    ----------
    dry_run
        Delete nothing; show what would be deleted.
    """
    settings = load_context("retain")

    async def work() -> Retained | None:
        async with open_database(settings, "retain", 1, no_timeouts=True) as database:
            return await drop_old(database, settings, datetime.now(UTC), dry_run=dry_run)

    retained = run_loop(work())
    if retained is None:
        fail(FAILED, "another process is deleting old data")
    if json:
        print_json(_as_json(retained, settings))
        return
    verb = "would be deleted" if dry_run else "deleted"
    for month in retained.months:
        say(f"{verb}: {month.name}, {month.bytes:,} bytes")
    say(f"{verb}: {retained.events_without_month:,} events without a month")
    say(f"{verb}: {retained.dead_letters:,} dead letters")
    say(f"{verb}: {retained.unhandled_events:,} unhandled events")
    say(f"{verb}: {retained.bulk_jobs:,} jobs of the console")
    for name, days in (
        ("event log", settings.event_log_days),
        ("dead letters", settings.dead_letter_days),
        ("unhandled events", settings.unhandled_days),
    ):
        say(f"kept: {name}, {f'{days} days' if days else 'no limit'}")


def _as_json(retained: Retained, settings: Settings) -> dict[str, Any]:
    return {
        **asdict(retained),
        "event_log_days": settings.event_log_days,
        "dead_letter_days": settings.dead_letter_days,
        "unhandled_days": settings.unhandled_days,
    }
