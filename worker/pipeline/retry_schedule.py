"""The retry schedule: what becomes of an event after a failed attempt."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Retry:
    """Wait in the retry step of this delay; the next attempt has this number."""

    delay: timedelta
    attempt: int


@dataclass(frozen=True, slots=True)
class Exhausted:
    """All retries failed: to the dead letters."""


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
