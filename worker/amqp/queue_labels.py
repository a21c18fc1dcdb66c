"""Every queue, with the labels under which metrics count it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from consumers.registry import FAMILIES
from worker.amqp.topology import ACTIONS, QUARANTINE, dead_queue, main_queue, retry_queue, step_name


@dataclass(frozen=True, slots=True)
class QueueLabels:
    """A queue and the labels under which it is told; an empty one does not apply."""

    queue: str
    family: str
    role: str
    step: str


def queues(delays: Sequence[timedelta]) -> Iterator[QueueLabels]:
    """Every queue there is."""
    for family in FAMILIES:
        yield from queues_of(family, delays)
    yield from queues_beside(ACTIONS, "action", delays)
    yield QueueLabels(QUARANTINE, "", "quarantine", "")


def queues_of(family: str, delays: Sequence[timedelta]) -> Iterator[QueueLabels]:
    """A family's own."""
    yield QueueLabels(main_queue(family), family, "work", "")
    for delay in delays:
        yield QueueLabels(retry_queue(family, delay), family, "retry", step_name(delay))
    yield QueueLabels(dead_queue(family), family, "dead", "")


def queues_beside(name: str, role: str, delays: Sequence[timedelta]) -> Iterator[QueueLabels]:
    """A subscriber's, and those of actions: that somebody outside takes nothing is no trouble of a family."""
    yield QueueLabels(main_queue(name), name, role, "")
    for delay in delays:
        yield QueueLabels(retry_queue(name, delay), name, f"{role}_retry", step_name(delay))
    yield QueueLabels(dead_queue(name), name, "dead", "")
