"""A run's results: tables for people, JSON for the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table

from tests.bench.figures import Spread
from tests.bench.results import Row

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Report:
    rows: Sequence[Row]
    conditions: Sequence[tuple[str, str]]
    """How it was measured: what, and in which words."""
    notes: Sequence[str]
    problems: Sequence[str]

    def as_tables(self) -> RenderableType:
        tables = [_table(measure, list(rows)) for measure, rows in groupby(self.rows, _measure)]
        words = [f"{what}: {how}" for what, how in self.conditions]
        told = [*words, *self.notes, *(f"BROKEN: {problem}" for problem in self.problems)]
        return Group(*tables, *told)

    def as_json(self) -> Json:
        return {
            "conditions": dict(self.conditions),
            "notes": list(self.notes),
            "problems": list(self.problems),
            "figures": [_row_as_json(row) for row in self.rows],
        }


def _measure(row: Row) -> str:
    return f"{row.measure} ({row.unit})"


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", min_width=96)
    table.add_column("", min_width=24)
    for heading in ("median", "lowest", "highest", "ratio", "target"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in rows:
        numbers = (row.spread.median, row.spread.low, row.spread.high)
        table.add_row(row.contestant, *map(_number, numbers), _ratio(row.ratio), _target(row), _verdict(row))
    return table


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _ratio(ratio: Spread | None) -> str:
    return "" if ratio is None else f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _target(row: Row) -> str:
    return "" if row.target is None else f"{row.target.bound} {row.target.value:g}"


def _verdict(row: Row) -> str:
    if row.is_met is None:
        return ""
    return "[green]met[/]" if row.is_met else "[red]missed[/]"


def _row_as_json(row: Row) -> Json:
    return {
        "measure": row.measure,
        "unit": row.unit,
        "contestant": row.contestant,
        **_spread_as_json(row.spread),
        "ratio": None if row.ratio is None else _spread_as_json(row.ratio),
        "target": None if row.target is None else {"bound": row.target.bound, "value": row.target.value},
        "met": row.is_met,
    }


def _spread_as_json(spread: Spread) -> Json:
    return {"median": spread.median, "low": spread.low, "high": spread.high}
