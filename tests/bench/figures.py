"""The arithmetic: rates, percentiles, spreads, ratios. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self

# What lies between is measured: neither the start of a process nor the last few in its hands.
FIRST_SHARE, LAST_SHARE = 0.1, 0.9


class TooFewSamples(Exception):
    """What was to be measured was over before it could be seen."""


@dataclass(frozen=True, slots=True)
class Sample:
    """So many were done at this instant (seconds, of any one clock)."""

    at: float
    done: int


@dataclass(frozen=True, slots=True)
class Spread:
    """What the rounds came to."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(median(values), min(values), max(values))


def rate(samples: Sequence[Sample], total: int) -> float:
    """Events a second, between a tenth and nine tenths of the total.

    Raises:
        TooFewSamples
    """
    seconds = instant(samples, LAST_SHARE * total) - instant(samples, FIRST_SHARE * total)
    if seconds <= 0:
        raise TooFewSamples("it was done between two looks: give more --events")
    return (LAST_SHARE - FIRST_SHARE) * total / seconds


def instant(samples: Sequence[Sample], done: float) -> float:
    """When so many were done, as if between two samples all went evenly.

    Raises:
        TooFewSamples: They never came so far.
    """
    before = samples[0]
    for after in samples[1:]:
        if before.done < done <= after.done:
            share = (done - before.done) / (after.done - before.done)
            return before.at + share * (after.at - before.at)
        before = after
    raise TooFewSamples(f"never saw {done:g} done, only up to {before.done}")


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all values does not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * share // 1)
    return ordered[max(0, min(len(ordered), int(rank)) - 1)]


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours by theirs, round by round: what slows a whole round down cancels out.

    A round that only one of them has been through does not count.
    """
    return Spread.of([mine / other for mine, other in zip(ours, theirs, strict=False)])
