"""`stockhook reconcile`: compare a marketplace's own list with our tables, as a report."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, assert_never

import uvloop
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from worker.invocation import (
    FAILED,
    UNAVAILABLE,
    USAGE,
    Json,
    begin,
    fail,
    open_database,
    print_json,
)
from worker.outbound import CallFailed, Unavailable
from worker.ovoko_api.client import open_ovoko
from worker.reconcile.difference import Difference
from worker.reconcile.reconciliation import Reconciled, Report
from worker.reconcile.reconciliation import reconcile as run_reconcile
from worker.reconcile.subject import parts, returns

SHOWN = 100
WIDEST_CELL = 60

What = Literal["parts", "returns"]


def reconcile(
    marketplace: Literal["ovoko"],
    what: What,
    /,
    *,
    since: datetime | None = None,
    most: int = 1000,
    json: Json = False,
) -> None:
    """Compare what a marketplace lists with our tables; nothing is changed, here or there.

    Pages are read from a list that moves meanwhile. So what seems to differ is asked for once more, alone,
    before it is reported. Exits 1 when something differs, or when not all could be compared.

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
        STOCKHOOK_OVOKO_CALLS_PER_SECOND.
    """
    if most < 1:
        fail(USAGE, f"--most must be 1 or more (given: {most})")
    settings = begin("reconcile")
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)

    async def work() -> Reconciled:
        async with (
            open_ovoko(settings) as api,
            open_database(settings, "reconcile", 1, unhurried=True) as database,
        ):
            with _progress() as report:
                compared = partial(run_reconcile, since=since, most=most, report=report)
                match what:
                    case "parts":
                        return await compared(parts(api, database))
                    case "returns":
                        return await compared(returns(api, database))
                    case unreachable:
                        assert_never(unreachable)

    try:
        found = uvloop.run(work())
    except CallFailed as error:
        code = UNAVAILABLE if isinstance(error, Unavailable) else FAILED
        fail(code, f"Ovoko's API: {error}")
    if json:
        print_json(_as_json(found, marketplace, what, since))
    else:
        Console().print(_as_tables(found, what))
    sys.exit(FAILED if found.drift or not found.is_conclusive else 0)


@contextmanager
def _progress() -> Iterator[Report]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = {name: bar.add_task(name, total=None) for name in ("list", "our rows", "second look")}
        yield lambda name, done, total: bar.update(tasks[name], completed=done, total=total)


def _as_json(found: Reconciled, marketplace: str, what: What, since: datetime | None) -> dict[str, Any]:
    listing = found.listing
    return {
        "marketplace": marketplace,
        "what": what,
        "since": since,
        "listed": listing.entities,
        "total_count": listing.total_count,
        "pages": listing.pages,
        "listed_twice": listing.repeated,
        "not_listed_at_least": listing.slipped,
        "here": found.ours,
        "looked_at_again": found.doubts - found.unchecked,
        "unchecked": found.unchecked,
        "unanswered": [{"id": one, "reason": reason} for one, reason in found.unanswered.items()],
        "differences": [_difference_as_json(one, found.ended_at) for one in found.differences],
        "drift": len(found.drift),
        "is_conclusive": found.is_conclusive,
        "seconds": round(found.seconds, 3),
    }


def _difference_as_json(one: Difference, now: datetime) -> dict[str, Any]:
    return {
        "id": one.entity_id,
        "kind": one.kind.replace(" ", "_"),
        "column": one.column,
        "here": one.here,
        "there": one.there,
        "here_at": one.here_at,
        "there_at": one.there_at,
        "may_be_under_way": one.is_under_way(now),
    }


def _as_tables(found: Reconciled, what: What) -> RenderableType:
    """For a terminal."""
    rows = Table(what.removesuffix("s"), "", "column", "here", "there", "here since", "there since")
    for one in found.differences[:SHOWN]:
        kind = f"{one.kind}, may be under way" if one.is_under_way(found.ended_at) else str(one.kind)
        cells = (one.entity_id, kind, one.column, one.here or "", one.there or "")
        rows.add_row(*(_cell(text) for text in cells), _instant(one.here_at), _instant(one.there_at))
    # As text: what the marketplace wrote must not be taken for markup.
    lines = [Text(line) for line in _lines(found)]
    return Group(rows, *lines) if found.differences else Group(*lines)


def _lines(found: Reconciled) -> Iterator[str]:
    listing = found.listing
    counted = "" if listing.total_count is None else f" of {listing.total_count:,}"
    yield (
        f"{listing.entities:,}{counted} listed there, on {listing.pages:,} pages; "
        f"{found.ours:,} rows here; {found.doubts:,} looked different, {len(found.differences):,} are"
    )
    if len(found.differences) > SHOWN:
        yield f"the first {SHOWN} are shown; --json has all"
    under_way = len(found.differences) - len(found.drift)
    if under_way:
        yield f"{under_way:,} changed there just now: their events may still be under way"
    if found.unchecked:
        yield f"{found.unchecked:,} more looked different and were not looked at again: give --most"
    if listing.repeated:
        yield f"the list moved while it was read: {listing.repeated:,} were on two pages"
    if listing.slipped:
        yield (
            f"{listing.slipped:,} or more slipped from page to page in two readings: "
            "whether they are missing here is not known"
        )
    for entity_id, reason in list(found.unanswered.items())[:SHOWN]:
        yield f"{_plain(entity_id)} could not be looked at again: {_plain(reason)}"
    if not found.differences and found.is_conclusive:
        yield "both say the same"


def _cell(text: str) -> Text:
    return Text(_plain(text))


def _plain(text: str) -> str:
    """Fit for a terminal, whoever wrote it."""
    return "".join(each if each.isprintable() else "?" for each in text)[:WIDEST_CELL]


def _instant(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
