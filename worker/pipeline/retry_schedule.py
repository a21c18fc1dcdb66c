"""The retry schedule: what follows a failed attempt."""

from collections.abc import Sequence
from dataclasses import dataclass

from worker.amqp.queue_set import RetryQueue


@dataclass(frozen=True, slots=True)
class Retry:
    """Wait in this retry queue; `attempt` is the number of the next attempt."""

    queue: RetryQueue
    attempt: int


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Every delay was used: the message becomes a dead letter."""


def after_failure(attempt: int, retries: Sequence[RetryQueue]) -> Retry | Exhausted:
    """With the delays 7 s, 35 s, 175 s:

    attempt that failed | next
    1                   | after 7 s
    2                   | after 35 s
    3                   | after 175 s
    4                   | exhausted
    """
    if attempt <= len(retries):
        return Retry(retries[attempt - 1], attempt + 1)
    return Exhausted()
