"""`stockhook rebuild`: rebuild a family's rows from the event log, compare them, and repair differences."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from worker.cli.context import Flag, Json, open_database, print_json
from worker.cli.families import FamilyName
from worker.cli.startup import load_context
from worker.cli.terminal import console, show
from worker.observability.exit_codes import FAILED
from worker.observability.inert_text import visible
from worker.observability.resolver import run_loop
from worker.tools.rebuild.rebuilding import Rebuilt
from worker.tools.rebuild.rebuilding import rebuild as run_rebuild

SHOWN = 100


def rebuild(
    family: FamilyName,
    /,
    *,
    swap: Flag = False,
    restart: Flag = False,
    json: Json = False,
) -> None:
    """Rebuild a family's rows, findings and communications from the event log, beside the live ones.

    Consumers keep running. Exits 1 if the live tables differ from the rebuilt ones, unless --swap is given.
    An interrupted rebuild resumes where it stopped.

    Parameters
    ----------
    family
        Whose rows to rebuild.
    swap
        Replace live rows that differ by the rebuilt ones. The family's consumers wait for a moment.
    restart
        Start from the beginning, also if an interrupted rebuild could be resumed.
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

    rebuilt = run_loop(work())
    if json:
        print_json(_as_json(rebuilt))
    else:
        show(_as_tables(rebuilt))
    sys.exit(FAILED if rebuilt.differences and not rebuilt.swapped else 0)


@contextmanager
def _progress(family: str) -> Iterator[Callable[[int, int], None]]:
    bars = console(stderr=True)
    columns = (TextColumn(family), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=bars, disable=not bars.is_terminal) as bar:
        task = bar.add_task(family, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _as_json(rebuilt: Rebuilt) -> dict[str, Any]:
    return {
        **asdict(rebuilt),
        "differences": [
            {
                **asdict(one),
                "columns": {
                    name: {"live": pair[0], "rebuilt": pair[1]} for name, pair in one.columns.items()
                },
            }
            for one in rebuilt.differences
        ],
    }


def _as_tables(rebuilt: Rebuilt) -> RenderableType:
    rows = Table("table", "row", "", "column", "live", "rebuilt")
    for one in rebuilt.differences[:SHOWN]:
        row = visible(", ".join(f"{name} {value}" for name, value in one.key.items()))
        named = [*one.columns.items()] if one.kind == "different" else []
        rows.add_row(one.table, row, one.kind, *_cells(named[0]) if named else ())
        for pair in named[1:]:
            rows.add_row("", "", "", *_cells(pair))
    lines = [
        f"{rebuilt.events:,} events in {rebuilt.seconds:.1f} s"
        + (f", {rebuilt.resumed_from:,} of them in an interrupted run" if rebuilt.resumed_from else ""),
        f"{len(rebuilt.differences):,} rows differ" if rebuilt.differences else "no rows differ",
    ]
    if len(rebuilt.differences) > SHOWN:
        lines.append(f"the first {SHOWN} are shown; --json lists all")
    if rebuilt.swapped:
        lines.append(f"repaired; the family's consumers waited for {rebuilt.locked_seconds:.2f} s")
    elif rebuilt.differences:
        lines.append("to repair them, run the same command with --swap")
    return Group(rows, *lines) if rebuilt.differences else Group(*lines)


def _cells(column: tuple[str, tuple[str | None, str | None]]) -> tuple[str, str, str]:
    name, (live, rebuilt) = column
    return name, visible(live), visible(rebuilt)
