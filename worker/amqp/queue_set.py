"""The names of the queues of one origin: a family, the actions, or a subscriber to changes over HTTP.

Deployments rely on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class RetryQueue:
    """`step` is the delay as status and metrics show it: `7s`."""

    name: str
    step: str
    delay: timedelta


@dataclass(frozen=True, slots=True)
class QueueSet:
    """`retries` are in the order of the retry schedule."""

    origin: str
    main: str
    retries: tuple[RetryQueue, ...]
    dead: str

    @classmethod
    def of(cls, origin: str, delays: Sequence[timedelta]) -> "QueueSet":
        retries = tuple(_retry_queue(origin, delay) for delay in delays)
        return cls(origin, main_queue(origin), retries, dead_queue(origin))

    @property
    def names(self) -> list[str]:
        return [self.main, *(retry.name for retry in self.retries), self.dead]


def main_queue(origin: str) -> str:
    return f"stockhook.{origin}"


def _retry_queue(origin: str, delay: timedelta) -> RetryQueue:
    """The name contains the delay, so each delay has its own queue."""
    step = f"{int(delay.total_seconds())}s"
    return RetryQueue(f"{main_queue(origin)}.retry.{step}", step, delay)


def dead_queue(origin: str) -> str:
    return f"{main_queue(origin)}.dead"
