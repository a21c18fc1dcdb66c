"""`stockhook reconcile`: compare a marketplace's list with our tables, and apply the differences."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar, assert_never

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from worker.cli.context import Flag, Json, fail, open_database, print_json
from worker.cli.reconcile_views import (
    What,
    applied_as_text,
    as_json,
    as_tables,
)
from worker.cli.startup import load_context, traced
from worker.cli.terminal import console, say, show
from worker.config.settings import Settings
from worker.marketplaces.http import CallFailed, Unavailable
from worker.marketplaces.ovoko.client import open_ovoko
from worker.observability.exit_codes import FAILED, UNAVAILABLE, USAGE
from worker.observability.resolver import run_loop
from worker.postgres.pool import Database
from worker.tools.reconcile.applying import AppliedObservations
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
    """Compare a marketplace's list with our tables, and apply the differences if requested.

    The list changes while its pages are read, so each possible difference is requested again by its id before
    it is reported. Without --apply nothing is changed, here or there.

    With --apply, each difference goes through the ordinary pipeline as an observed event
    (stockhook.observed.…): it is logged and explained, and a newer event wins over it. A written-off part
    stays written off. The command can be repeated at any time. Recent changes, here or there, are left out:
    one side may be behind the other.

    Exits 0 if nothing differs, or if all differences were applied; 1 if something differs, or not all could
    be compared or applied; 69 if marketplace, broker or database cannot be reached; 78 if a setting is
    missing.

    A part has a row here once an event of it was received: after the first start, expect many that exist only
    there.

    Parameters
    ----------
    marketplace
        The marketplace. The credentials of its API must be set.
    what
        parts: compared by status. returns: compared by order, and by whether their creation is known here.
    since
        Only what the marketplace lists from the day before on, and our rows whose newest event is from then
        on; those that are not listed are requested by their id. Without an offset it is UTC.
    most
        Maximum number of possible differences to check again, differences in status first. Each check is one
        call, limited by STOCKHOOK_OVOKO_CALLS_PER_SECOND. So it also limits what --apply sends.
    apply
        Apply the differences, after they are shown and confirmed.
    dry_run
        With --apply: only show what would be applied.
    yes
        With --apply: do not prompt.
    """
    if most < 1:
        fail(USAGE, f"--most must be 1 or more (given: {most})")
    asks_first = apply and not dry_run and not yes
    if asks_first and (json or not sys.stdin.isatty()):
        fail(USAGE, "--apply prompts before it sends anything: without a terminal, give --yes (or --dry-run)")
    settings = load_context("reconcile")
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    run = _Run(
        settings, what, since, most, sends=apply and not dry_run, asks_first=asks_first, is_silent=json
    )
    try:
        with traced(settings, "reconcile"):
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

    async def work(self) -> tuple[Reconciled[Any], AppliedObservations | None]:
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
    ) -> tuple[Reconciled[There], AppliedObservations | None]:
        with _progress("list", "our rows", "second check") as report:
            result = await run_reconcile(subject, since=self.since, most=self.most, report=report)
        if not self.is_silent:
            show(as_tables(result, self.what))
        count = len(result.drift)
        if not count or not self.sends or (self.asks_first and not _is_confirmed(count, self.what)):
            return result, None
        with _progress("sent", "applied") as report:
            return result, await apply_drift(subject, result, self.settings, database, report)


def _is_confirmed(count: int, what: What) -> bool:
    reply = console(stderr=True).input(
        f"Apply {count:,} {what} as the marketplace lists them? [y/N] ", markup=False
    )
    return reply.strip().lower() in ("y", "yes")


@contextmanager
def _progress(*names: str) -> Iterator[Report]:
    bars = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=bars, transient=True, disable=not bars.is_terminal) as bar:
        tasks = {name: bar.add_task(name, total=None) for name in names}
        yield lambda name, done, total: bar.update(tasks[name], completed=done, total=total)
