"""The overview: the whole pipeline, and where each accepted event is."""

from dataclasses import dataclass

from worker.console.contract import Console, Parameters
from worker.console.history import RANGES, history
from worker.console.pipeline import PipelineView

# Of a chart.
POINTS = 60


@dataclass(frozen=True, slots=True)
class Overview:
    """`history` has each family's number of waiting events during these hours, the oldest first."""

    pipeline: PipelineView
    history: dict[str, list[float | None]]
    hours: int = 1
    range: str = RANGES[1]
    ranges: tuple[int, ...] = ()
    trouble: str | None = None


async def view(console: Console, parameters: Parameters) -> Overview:
    """Raises: NoSnapshot."""
    pipeline = await console.poller.current()
    charts = await history(console, parameters, POINTS)
    return Overview(
        pipeline=pipeline,
        history={family.name: charts.waiting[family.name] for family in pipeline.families},
        hours=charts.hours,
        range=charts.label,
        ranges=charts.ranges,
        trouble=charts.trouble,
    )
