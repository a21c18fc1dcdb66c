"""Every queue, with its labels in metrics."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from consumers.registry import FAMILIES
from worker.amqp.topology import ACTIONS, QUARANTINE, dead_queue, family_queue, retry_queue, step_name


@dataclass(frozen=True, slots=True)
class QueueLabels:
    """A queue and its labels in metrics. An empty label does not apply."""

    queue: str
    family: str
    role: str
    step: str


def queues(delays: Sequence[timedelta]) -> Iterator[QueueLabels]:
    """Every queue except those of subscribers."""
    for family in FAMILIES:
        yield from queues_of(family, delays)
    yield from queues_beside(ACTIONS, "action", delays)
    yield QueueLabels(QUARANTINE, "", "quarantine", "")


def queues_of(family: str, delays: Sequence[timedelta]) -> Iterator[QueueLabels]:
    """The queues of a family."""
    yield QueueLabels(family_queue(family), family, "work", "")
    for delay in delays:
        yield QueueLabels(retry_queue(family, delay), family, "retry", step_name(delay))
    yield QueueLabels(dead_queue(family), family, "dead", "")


def queues_beside(name: str, role: str, delays: Sequence[timedelta]) -> Iterator[QueueLabels]:
    """The queues of a subscriber, or of actions. Failures outside do not count as failures of a family."""
    yield QueueLabels(family_queue(name), name, role, "")
    for delay in delays:
        yield QueueLabels(retry_queue(name, delay), name, f"{role}_retry", step_name(delay))
    yield QueueLabels(dead_queue(name), name, "dead", "")
