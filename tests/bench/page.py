"""`python -m tests.bench.page`: write the generated parts of docs/benchmarks.md from the saved results."""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

from deploy.documents.pages import with_parts
from deploy.local.services import CHECKOUT
from tests.bench.report import number
from tests.bench.results import Verdict

PAGE = CHECKOUT / "docs/benchmarks.md"
SAVED = CHECKOUT / "docs/benchmarks"

# A measure of many addresses without a target is only in the JSON.
MOST_ROWS = 12

Figure = Mapping[str, Any]
Run = Mapping[str, Any]


def saved() -> dict[str, Run]:
    """The saved runs by the name of their file, `main` first."""
    paths = sorted(SAVED.glob("*.json"), key=lambda path: (path.stem != "main", path.stem))
    return {path.name: json.loads(path.read_text()) for path in paths}


def parts(runs: Mapping[str, Run]) -> dict[str, Callable[[], str]]:
    """The generated parts of the page, by name."""
    return {
        "results": lambda: "\n".join(line for name, run in runs.items() for line in _run(name, run)) + "\n",
        "not-reached": lambda: "\n".join(_not_reached(runs)) + "\n",
    }


def _run(name: str, run: Run) -> Iterator[str]:
    conditions = {condition["what"]: condition["how"] for condition in run["conditions"]}
    yield f"### `{conditions['command']}`"
    yield ""
    yield f"- **Machine:** {conditions['machine']}; {conditions['software']}"
    yield f"- **Date:** {conditions['date']}, checkout {conditions['checkout']}"
    yield f"- **Rounds:** {conditions['rounds']}"
    yield f"- **Cores used by other processes:** {conditions['cores used by other processes']}"
    yield f"- **Raw JSON:** [{name}](benchmarks/{name}), with the settings of all contestants"
    yield ""
    for problem in run["problems"]:
        yield f"**Failed: {' '.join(problem.split())}**"
        yield ""
    yield "| what | with | median (lowest to highest) | ratio | target | |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for (measure, unit), of_measure in groupby(run["figures"], itemgetter("measure", "unit")):
        figures = list(of_measure)
        if len(figures) <= MOST_ROWS or any(figure["target"] for figure in figures):
            yield from _rows(measure, unit, figures)
    yield ""


def _rows(measure: str, unit: str, figures: list[Figure]) -> Iterator[str]:
    for place, figure in enumerate(figures):
        what = "" if place else f"{measure} ({unit})"
        ratio = "" if figure["ratio"] is None else _spread(figure["ratio"])
        cells = (what, figure["contestant"], _spread(figure), ratio, figure["target"], figure["verdict"])
        yield "| " + " | ".join(cell or "" for cell in cells) + " |"


def _not_reached(runs: Mapping[str, Run]) -> Iterator[str]:
    missed = [
        figure
        for run in runs.values()
        for figure in run["figures"]
        if figure["verdict"] not in (None, Verdict.REACHED)
    ]
    for figure in missed:
        judged = "" if figure["ratio"] is None else f", ratio {_spread(figure['ratio'])}"
        yield (
            f"- **{figure['measure']}, {figure['contestant']}:** {_spread(figure)} {figure['unit']}{judged}; "
            f"target {figure['target']}: {figure['verdict']}."
        )
    if not missed:
        yield "Each target of the runs above is reached."


def _spread(spread: Figure) -> str:
    if spread["low"] == spread["high"]:
        return number(spread["median"])
    return f"{number(spread['median'])} ({number(spread['low'])} to {number(spread['high'])})"


if __name__ == "__main__":
    PAGE.write_text(with_parts(PAGE.read_text(), parts(saved())))
