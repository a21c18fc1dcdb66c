"""`stockhook dead replay`: its dry run, its progress, and its result."""

import sys

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from worker.amqp.connection import Broker
from worker.amqp.errors import Unroutable
from worker.cli.context import open_database, print_json
from worker.cli.terminal import console, say
from worker.config.settings import Settings
from worker.dead_letters import replay, search
from worker.dead_letters.audit_trail import who
from worker.dead_letters.dry_run import outcome_of
from worker.dead_letters.refusal import CommandRefused
from worker.dead_letters.search import Selection
from worker.observability.exit_codes import FAILED


async def print_dry_run(settings: Settings, selection: Selection, json: bool) -> None:
    """Print what each letter would do against today's rows. Nothing is sent."""
    rows: list[dict[str, object]] = []
    after = 0
    async with open_database(settings, "dead") as database:
        while True:
            async with database.connection() as connection:
                letters = await search.select(connection, selection, after=after, limit=100)
            if not letters:
                break
            after = letters[-1].dead_letter_id
            for letter in letters:
                would_be = await outcome_of(database, letter, settings.encryptor, settings.tolerance)
                rows.append(
                    {
                        "dead_letter_id": letter.dead_letter_id,
                        "event_id": letter.event_id,
                        "would_be": would_be,
                    }
                )
    if json:
        print_json(rows)
        return
    for row in rows:
        say(f"{row['dead_letter_id']:>8} {row['would_be']}")
    say(f"{len(rows):,} dead letters; nothing was sent")


async def run_replay(
    settings: Settings, selection: Selection, rate: float, why: str | None, json: bool
) -> int:
    """The exit code.

    Raises:
        CommandRefused
    """
    bar = Progress(
        TextColumn("{task.fields[status]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    async with open_database(settings, "dead", 3) as database:
        broker = Broker(settings.amqp_url.get_secret_value(), "replay")
        run = replay.Replay(
            broker, database, settings.encryptor, settings.delays, rate=rate, who=who(), reason=why
        )
        with bar:
            task = bar.add_task("", status="")
            run.on_progress = lambda tally: bar.update(
                task, total=tally.total, completed=tally.replayed, status=_progress(tally)
            )
            try:
                tally = await run.run(selection)
            except replay.AnotherRuns:
                raise CommandRefused("another replay is running: wait until it ends") from None
            except Unroutable:
                raise CommandRefused("a queue is missing: `stockhook topology` declares it") from None
    _print_tally(tally, json)
    return FAILED if tally.stopped or tally.came_back or tally.unready else 0


def _print_tally(tally: replay.Tally, json: bool) -> None:
    if json:
        print_json(
            {
                "selected": tally.total,
                "replayed": tally.replayed,
                "applied": tally.applied,
                "handed_on": tally.handed_on,
                "came_back": tally.came_back,
                "under_way": tally.under_way,
                "not_replayed": [
                    {"dead_letter_id": number, "reason": reason} for number, reason in tally.unready
                ],
                "stopped": tally.stopped,
            }
        )
    else:
        say(f"{_progress(tally)}, of {tally.total:,}")
        for number, reason in tally.unready:
            say(f"{number} was not replayed: {reason}")
    if tally.stopped:
        say(f"stockhook: stopped: {tally.stopped}", file=sys.stderr)


def _progress(tally: replay.Tally) -> str:
    handed_on = f"handed on {tally.handed_on:,}, " if tally.handed_on else ""
    return (
        f"replayed {tally.replayed:,}: applied {tally.applied:,}, {handed_on}"
        f"came back {tally.came_back:,}, under way {tally.under_way:,}"
    )
