"""The results of a run, as tables or JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table

from tests.bench.figures import Spread
from tests.bench.results import Row, Verdict

Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Report:
    rows: Sequence[Row]
    conditions: Sequence[tuple[str, str]]
    """Conditions of the run: subject and description."""
    problems: Sequence[str]
    was_interrupted: bool = False

    def as_tables(self) -> RenderableType:
        conditions = Table(
            "subject", "condition", title="conditions", title_justify="left", title_style="bold"
        )
        for what, how in self.conditions:
            conditions.add_row(what, how)
        broken = [f"BROKEN: {problem}" for problem in self.problems]
        return Group(_figures(self.rows), conditions, *broken)

    def as_json(self) -> Json:
        return {
            "conditions": [{"what": what, "how": how} for what, how in self.conditions],
            "problems": list(self.problems),
            "interrupted": self.was_interrupted,
            "figures": [_row_as_json(row) for row in self.rows],
        }


def _figures(rows: Sequence[Row]) -> Table:
    table = Table(
        "",
        title="figures: medians of the rounds, with lowest and highest",
        title_justify="left",
        title_style="bold",
    )
    for heading in ("median", "lowest", "highest", "ratio", "target"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for measure, of_measure in groupby(rows, _measure):
        table.add_section()
        table.add_row(f"[bold]{measure}[/]")
        for row in of_measure:
            numbers = map(number, (row.spread.median, row.spread.low, row.spread.high))
            table.add_row(f"  {row.contestant}", *numbers, _ratio(row.ratio), _target(row), _verdict(row))
    return table


def _measure(row: Row) -> str:
    return f"{row.measure} ({row.unit})"


def number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _ratio(ratio: Spread | None) -> str:
    if ratio is None:
        return ""
    if ratio.low == ratio.high:
        return f"{ratio.median:.2f}"
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def _target(row: Row) -> str:
    return "" if row.target is None else str(row.target)


def _verdict(row: Row) -> str:
    match row.verdict:
        case None:
            return ""
        case Verdict.REACHED:
            return f"[green]{row.verdict}[/]"
        case Verdict.NOT_DECIDED:
            return f"[yellow]{row.verdict}[/]"
        case Verdict.NOT_REACHED:
            return f"[red]{row.verdict}[/]"


def _row_as_json(row: Row) -> Json:
    return {
        "measure": row.measure,
        "unit": row.unit,
        "contestant": row.contestant,
        **_spread_as_json(row.spread),
        "ratio": None if row.ratio is None else _spread_as_json(row.ratio),
        "target": None if row.target is None else str(row.target),
        "verdict": row.verdict,
    }


def _spread_as_json(spread: Spread) -> Json:
    return {"median": spread.median, "low": spread.low, "high": spread.high}
