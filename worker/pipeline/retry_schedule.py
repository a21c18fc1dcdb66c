"""The retry schedule: what follows a failed attempt."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Retry:
    """Wait in the retry queue of this delay; `attempt` is the number of the next attempt."""

    delay: timedelta
    attempt: int


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Every delay was used: the message becomes a dead letter."""


def after_failure(attempt: int, delays: Sequence[timedelta]) -> Retry | Exhausted:
    """With the delays 7 s, 35 s, 175 s:

    attempt that failed | next
    1                   | after 7 s
    2                   | after 35 s
    3                   | after 175 s
    4                   | exhausted
    """
    if attempt <= len(delays):
        return Retry(delays[attempt - 1], attempt + 1)
    return Exhausted()
