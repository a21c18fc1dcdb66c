"""The overview: the whole pipeline, and where each accepted event is."""

from dataclasses import dataclass

from worker.console.contract import Console, Parameters
from worker.console.pipeline import PipelineView, condensed, hour

# One per minute.
POINTS = 60


@dataclass(frozen=True, slots=True)
class Overview:
    """`history` has each family's number of waiting events during the last hour, the oldest first."""

    pipeline: PipelineView
    history: dict[str, list[float | None]]


async def view(console: Console, _: Parameters) -> Overview:
    """Raises: NoSnapshot."""
    pipeline = await console.poller.current()
    return Overview(
        pipeline,
        {
            family.name: condensed(
                hour([point.queued for point in console.poller.history(family.name)]), POINTS
            )
            for family in pipeline.families
        },
    )
