"""Which measures are taken, how often, and who is next."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.bench.lineup import Contestant
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


@dataclass(frozen=True, slots=True)
class Turn:
    round: int
    contestant: Contestant


@dataclass(slots=True)
class Bench:
    """What a measure is given."""

    world: World
    options: Options
    show: Show
    results: Results = field(default_factory=Results)

    def turns(self, measure: str, contestants: Sequence[Contestant]) -> Iterator[Turn]:
        """Everybody once a round, so that what the machine does meanwhile meets all alike."""
        total = self.options.rounds * len(contestants)
        for number in range(total):
            turn = Turn(number // len(contestants) + 1, contestants[number % len(contestants)])
            self.show.step(measure, f"round {turn.round}: {turn.contestant.name}", number, total)
            yield turn
        self.show.done(measure, total)
