"""The measures of a run, their rounds, and the order of contestants."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from tests.bench.results import Results
from tests.bench.show import Show
from tests.bench.world import World


@dataclass(frozen=True, slots=True)
class Options:
    """`events` is the size of the largest backlog; the others are a fraction of it."""

    rounds: int = 2
    events: int = 40_000
    is_quick: bool = False
    is_full: bool = False
    keep_logs: bool = False


class NotAvailable(Exception):
    """This machine lacks what a measure needs. The text says what."""


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


@dataclass(frozen=True, slots=True)
class Planned:
    """A measure with its usual duration on two cores, in seconds: before its rounds, and per round.

    The measures `in_table` are those of `make bench` without arguments.
    """

    run: Callable[[Bench], Awaitable[None]]
    before: float
    per_round: float
    in_table: bool = False

    def seconds(self, rounds: int) -> float:
        return self.before + rounds * self.per_round


def describe(plan: Mapping[str, Planned], options: Options) -> Iterator[str]:
    """The lines that announce a run."""
    total = sum(planned.seconds(options.rounds) for planned in plan.values())
    rounds = "1 round" if options.rounds == 1 else f"{options.rounds} rounds"
    # The durations are those of the default sizes.
    yield (
        f"plan: {rounds}, about {minutes(total)}"
        if not options.is_quick
        else f"plan: {rounds}, small numbers"
    )
    for name, planned in plan.items():
        yield f"  {name:<14} about {minutes(planned.seconds(options.rounds))}"


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
