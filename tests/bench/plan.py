"""Which measures are taken, how often, and who is next."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from tests.bench.results import Results
from tests.bench.show import Show
from tests.bench.world import World


@dataclass(frozen=True, slots=True)
class Options:
    """`events` is the size of the greatest backlog; the others are a part of it."""

    rounds: int = 3
    events: int = 40_000
    is_quick: bool = False
    is_full: bool = False
    keep_logs: bool = False


class Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


@dataclass(slots=True)
class Bench:
    """What a measure is given."""

    world: World
    options: Options
    show: Show
    results: Results = field(default_factory=Results)

    def turns(self, measure: str, contestants: Sequence[T]) -> Iterator[T]:
        """Everybody once a round, so that what the machine does meanwhile meets all alike."""
        total = self.options.rounds * len(contestants)
        for number in range(total):
            contestant = contestants[number % len(contestants)]
            title = f"round {number // len(contestants) + 1}: {contestant.name}"
            self.show.step(measure, title, number, total)
            yield contestant
        self.show.done(measure, total)
