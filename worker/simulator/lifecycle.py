"""Generated events, and lives: the events of one entity."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TypeVar
from uuid import UUID

from schemas.registry import Provider

T = TypeVar("T")

# The start of each generated marketplace, which does not read the clock.
BEGINNING = datetime(2025, 1, 6, 8, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class GeneratedEvent:
    """`body` has no secret: a Buyback body has an empty `token`.

    `occurred_at` is the instant printed in the body, to the microsecond.
    """

    provider: Provider
    event_type: str
    occurred_at: datetime
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Step:
    """`at` is when the marketplace sends the event, whose timestamp may be another instant."""

    at: datetime
    event: GeneratedEvent


# The events of one entity, in the order of sending.
Life = Iterator[Step]


def new_id(rng: Random) -> str:
    """A UUID, version 4."""
    return str(UUID(int=rng.getrandbits(128), version=4))


def happens(rng: Random, probability: float) -> bool:
    return rng.random() < probability


def drawn(rng: Random, weighted: tuple[tuple[T, float], ...]) -> T:
    """A random alternative, by weight."""
    outcomes = [outcome for outcome, _ in weighted]
    return rng.choices(outcomes, [weight for _, weight in weighted])[0]


def later(rng: Random, mean: timedelta) -> timedelta:
    """A random wait (exponential)."""
    return timedelta(microseconds=int(rng.expovariate(1.0) * (mean / timedelta(microseconds=1))))
