"""`stockhook reconcile`: compare a marketplace's own list with our tables, and take over what differs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar, assert_never

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from worker.cli.context import Flag, Json, fail, load_context, open_database, print_json
from worker.cli.reconcile_views import (
    What,
    applied_as_text,
    as_json,
    as_tables,
)
from worker.cli.terminal import console, say, show
from worker.config.settings import Settings
from worker.marketplaces.http import CallFailed, Unavailable
from worker.marketplaces.ovoko.client import open_ovoko
from worker.observability.exit_codes import FAILED, UNAVAILABLE, USAGE
from worker.observability.resolver import run_loop
from worker.postgres.pool import Database
from worker.tools.reconcile.applying import Applied
from worker.tools.reconcile.applying import apply as apply_drift
from worker.tools.reconcile.ovoko import parts, returns
from worker.tools.reconcile.reconciliation import Reconciled, Report
from worker.tools.reconcile.reconciliation import reconcile as run_reconcile
from worker.tools.reconcile.subject import Subject

Here = TypeVar("Here")
There = TypeVar("There")


def reconcile(
    marketplace: Literal["ovoko"],
    what: What,
    /,
    *,
    since: datetime | None = None,
    most: int = 1000,
    apply: Flag = False,
    dry_run: Flag = False,
    yes: Flag = False,
    json: Json = False,
) -> None:
    """Compare what a marketplace lists with our tables, and take over what differs where asked to.

    Pages are read from a list that moves meanwhile. So what seems to differ is asked for once more, alone,
    before it is reported. Without --apply nothing is changed, here or there.

    With --apply, each difference goes through the ordinary pipeline as an event of what was seen
    (stockhook.observed.…): it is logged, and explained, and an event that is newer wins over it. What is
    written off stays so. It can be repeated at any time. What changed just now, here or there, is left
    out: one of both may be behind.

    Exits 0 when nothing differs, or when all that differed was taken over; 1 when something differs, or not
    all could be compared or taken over; 69 when marketplace, broker or database cannot be reached; 78 when a
    setting is missing.

    A part has a row here once an event of it came: after the first start, expect many that are only there.

    Parameters
    ----------
    marketplace
        Whose list it is. It needs the credentials of its API.
    what
        parts: by their status. returns: by their order, and whether their opening came.
    since
        Only what the marketplace lists from the day before on, and our rows whose newest event is from then
        on; what of these is not listed is asked for by its id. Without an offset it is UTC.
    most
        Look again at so many at most, those of other status first; a call each, at the pace of
        STOCKHOOK_OVOKO_CALLS_PER_SECOND. So it also bounds what --apply sends.
    apply
        Take over what differs, once you have seen it and said yes.
    dry_run
        With --apply: only say what would be taken over.
    yes
        With --apply: do not ask.
    """
    if most < 1:
        fail(USAGE, f"--most must be 1 or more (given: {most})")
    asks_first = apply and not dry_run and not yes
    if asks_first and (json or not sys.stdin.isatty()):
        fail(
            USAGE, "--apply asks before it sends anything: where nobody can answer, give --yes (or --dry-run)"
        )
    settings = load_context("reconcile")
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    run = _Run(
        settings, what, since, most, sends=apply and not dry_run, asks_first=asks_first, is_silent=json
    )
    try:
        result, applied = run_loop(run.work())
    except CallFailed as error:
        code = UNAVAILABLE if isinstance(error, Unavailable) else FAILED
        fail(code, f"Ovoko's API: {error}")
    if json:
        print_json(as_json(result, applied, marketplace, what, since))
    elif applied is not None:
        show(applied_as_text(applied))
    elif apply and result.drift:
        say(f"nothing was sent; {len(result.drift):,} observations would be")
    is_settled = not result.drift if applied is None else applied.is_whole
    sys.exit(0 if is_settled and result.is_conclusive else FAILED)


@dataclass(frozen=True, slots=True)
class _Run:
    settings: Settings
    what: What
    since: datetime | None
    most: int
    sends: bool
    asks_first: bool
    is_silent: bool

    async def work(self) -> tuple[Reconciled[Any], Applied | None]:
        """Raises: CallFailed, and what `apply` raises."""
        settings = self.settings
        async with (
            open_ovoko(settings) as api,
            open_database(settings, "reconcile", 1, no_timeouts=True) as database,
        ):
            match self.what:
                case "parts":
                    return await self._of(parts(api, database), database)
                case "returns":
                    return await self._of(returns(api, database), database)
                case unreachable:
                    assert_never(unreachable)

    async def _of(
        self, subject: Subject[Here, There], database: Database
    ) -> tuple[Reconciled[There], Applied | None]:
        with _progress("list", "our rows", "second look") as report:
            result = await run_reconcile(subject, since=self.since, most=self.most, report=report)
        if not self.is_silent:
            show(as_tables(result, self.what))
        count = len(result.drift)
        if not count or not self.sends or (self.asks_first and not _is_confirmed(count, self.what)):
            return result, None
        with _progress("sent", "applied") as report:
            return result, await apply_drift(subject, result, self.settings, database, report)


def _is_confirmed(count: int, what: What) -> bool:
    reply = console(stderr=True).input(f"Take over {count:,} {what} as they are there? [y/N] ", markup=False)
    return reply.strip().lower() in ("y", "yes")


@contextmanager
def _progress(*names: str) -> Iterator[Report]:
    bars = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=bars, transient=True, disable=not bars.is_terminal) as bar:
        tasks = {name: bar.add_task(name, total=None) for name in names}
        yield lambda name, done, total: bar.update(tasks[name], completed=done, total=total)
