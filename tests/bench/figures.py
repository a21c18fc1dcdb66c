"""The arithmetic: rates, percentiles, spreads, ratios. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self

# The measured part leaves out the start of a process and its last in-flight messages.
FIRST_SHARE, LAST_SHARE = 0.1, 0.9


class TooFewSamples(Exception):
    """The measured work ended before it was sampled."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The number of completed events at an instant (seconds of one clock)."""

    at: float
    done: int


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, lowest and highest value of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(median(values), min(values), max(values))


def rate(samples: Sequence[Sample], total: int) -> float:
    """Events per second, between a tenth and nine tenths of the total.

    Raises:
        TooFewSamples
    """
    seconds = instant(samples, LAST_SHARE * total) - instant(samples, FIRST_SHARE * total)
    if seconds <= 0:
        raise TooFewSamples("it ended between two samples: use more --events")
    return (LAST_SHARE - FIRST_SHARE) * total / seconds


def serial_rate(*rates: float) -> float:
    """The rate of a process that does the work of all these processes, one after the other."""
    return 1 / sum(1 / rate for rate in rates)


def instant(samples: Sequence[Sample], done: float) -> float:
    """The instant at which `done` events were completed, interpolated linearly between samples.

    Raises:
        TooFewSamples: The samples end before this number.
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
    """The ratio of ours to theirs per round, so that load on a whole round cancels out.

    A round that only one of them completed does not count.
    """
    return Spread.of([mine / other for mine, other in zip(ours, theirs, strict=False)])
