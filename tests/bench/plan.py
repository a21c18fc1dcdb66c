"""The measures of a run, their rounds, and the order of contestants."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from tests.bench.results import Results
from tests.bench.show import Show
from tests.bench.world import World


@dataclass(frozen=True, slots=True)
class Options:
    """`events` is the size of the largest backlog; the others are a fraction of it."""

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
    """The arguments of every measure."""

    world: World
    options: Options
    show: Show
    results: Results = field(default_factory=Results)

    def turns(self, measure: str, contestants: Sequence[T]) -> Iterator[T]:
        """Yield each contestant once per round, so that other load affects all equally."""
        total = self.options.rounds * len(contestants)
        for number in range(total):
            contestant = contestants[number % len(contestants)]
            title = f"round {number // len(contestants) + 1}: {contestant.name}"
            self.show.step(measure, title, number, total)
            yield contestant
        self.show.done(measure, total)
