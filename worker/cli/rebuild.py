"""`stockhook rebuild`: build a family's projection anew, compare, and have it take over."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from worker.cli.context import Flag, Json, load_context, open_database, print_json
from worker.cli.terminal import console, show
from worker.observability.exit_codes import FAILED
from worker.observability.inert_text import visible
from worker.observability.resolver import run_loop
from worker.tools.rebuild.rebuilding import Rebuilt
from worker.tools.rebuild.rebuilding import rebuild as run_rebuild

SHOWN = 100


def rebuild(
    family: Literal["inventory", "orders", "returns", "buybacks", "reminders"],
    /,
    *,
    swap: Flag = False,
    restart: Flag = False,
    json: Json = False,
) -> None:
    """Build a family's rows, findings and communications from the event log, beside the live ones.

    Consumers go on meanwhile. Exits 1 when the live tables differ from what was rebuilt, unless with --swap.
    What was broken off is gone on with the next time.

    Parameters
    ----------
    family
        Whose projection it is.
    swap
        Put what was rebuilt in the place of rows that differ. The family's consumers wait for a moment.
    restart
        Begin anew, also where an earlier rebuild was broken off.
    """
    settings = load_context("rebuild")

    async def work() -> Rebuilt:
        async with open_database(settings, "rebuild", 1, no_timeouts=True) as database:
            with _progress(family) as report:
                return await run_rebuild(
                    database,
                    family,
                    swap=swap,
                    restart=restart,
                    report=report,
                    tolerance=settings.tolerance,
                )

    found = run_loop(work())
    if json:
        print_json(_as_json(found))
    else:
        show(_as_tables(found))
    sys.exit(FAILED if found.differences and not found.swapped else 0)


@contextmanager
def _progress(family: str) -> Iterator[Callable[[int, int], None]]:
    bars = console(stderr=True)
    columns = (TextColumn(family), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=bars, disable=not bars.is_terminal) as bar:
        task = bar.add_task(family, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _as_json(found: Rebuilt) -> dict[str, Any]:
    return {
        **asdict(found),
        "differences": [
            {
                **asdict(one),
                "columns": {
                    name: {"live": pair[0], "rebuilt": pair[1]} for name, pair in one.columns.items()
                },
            }
            for one in found.differences
        ],
    }


def _as_tables(found: Rebuilt) -> RenderableType:
    """For a terminal."""
    rows = Table("table", "row", "", "column", "live", "rebuilt")
    for one in found.differences[:SHOWN]:
        row = visible(", ".join(f"{name} {value}" for name, value in one.key.items()))
        named = [*one.columns.items()] if one.kind == "different" else []
        rows.add_row(one.table, row, one.kind, *_cells(named[0]) if named else ())
        for pair in named[1:]:
            rows.add_row("", "", "", *_cells(pair))
    lines = [
        f"{found.events:,} events in {found.seconds:.1f} s"
        + (f", {found.resumed_from:,} of them before" if found.resumed_from else ""),
        f"{len(found.differences):,} rows differ" if found.differences else "the live tables hold the same",
    ]
    if len(found.differences) > SHOWN:
        lines.append(f"the first {SHOWN} are shown; --json has all")
    if found.swapped:
        lines.append(f"repaired; the family's consumers were kept waiting for {found.locked_seconds:.2f} s")
    elif found.differences:
        lines.append("to repair them: the same with --swap")
    return Group(rows, *lines) if found.differences else Group(*lines)


def _cells(column: tuple[str, tuple[str | None, str | None]]) -> tuple[str, str, str]:
    name, (live, rebuilt) = column
    return name, visible(live), visible(rebuilt)
