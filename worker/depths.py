"""Has the gauges say how many messages wait in each queue, and how many consumers it has.

Every consumer process measures all queues, whatever families it serves: one that stops takes nothing away.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from consumers.registry import FAMILIES
from worker import metrics
from worker.broker import Broker, Link, keep_connected
from worker.patience import pause
from worker.topology import QUARANTINE, dead_queue, family_queue, retry_queue, step_name

MEASURE_EVERY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A queue and the labels under which it is told; an empty one does not apply."""

    queue: str
    family: str
    lane: str
    step: str


def queues(delays: Sequence[timedelta]) -> Iterator[Measured]:
    """Every queue there is."""
    for family in FAMILIES:
        yield Measured(family_queue(family), family, "work", "")
        for delay in delays:
            yield Measured(retry_queue(family, delay), family, "retry", step_name(delay))
        yield Measured(dead_queue(family), family, "dead", "")
    yield Measured(QUARANTINE, "", "quarantine", "")


async def measure_queues_regularly(
    broker: Broker, delays: Sequence[timedelta], stopping: asyncio.Event
) -> None:
    """Measure until we stop. While the broker is away the gauges say nothing, not what was true before."""
    measured = list(queues(delays))

    async def session() -> None:
        try:
            async with broker.connection() as link:
                while not stopping.is_set():
                    await _measure(link, measured)
                    await pause(MEASURE_EVERY_SECONDS, stopping)
        finally:
            metrics.QUEUE_MESSAGES.clear()
            metrics.QUEUE_CONSUMERS.clear()

    await keep_connected("queue gauges", session, stopping)


async def _measure(link: Link, measured: Sequence[Measured]) -> None:
    depths = await link.depths([one.queue for one in measured])
    for one in measured:
        labels = (one.queue, one.family, one.lane, one.step)
        depth = depths[one.queue]
        if depth is None:
            for gauge in (metrics.QUEUE_MESSAGES, metrics.QUEUE_CONSUMERS):
                gauge.remove_by_labels({"queue": one.queue})
            continue
        metrics.QUEUE_MESSAGES.labels(*labels).set(depth.ready)
        metrics.QUEUE_CONSUMERS.labels(*labels).set(depth.consumers)
    metrics.QUEUES_MEASURED_AT.set_to_current_time()
