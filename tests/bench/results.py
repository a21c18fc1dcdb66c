"""What was measured, and the targets it is held against."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from tests.bench.figures import Spread, paired_ratio


class Bound(StrEnum):
    AT_LEAST = "≥"
    AT_MOST = "≤"


@dataclass(frozen=True, slots=True)
class Target:
    """Of a figure of the product's: by itself, or (with `against`) by that of another in the same round."""

    measure: str
    bound: Bound
    value: float
    against: str | None = None

    def is_met(self, figure: float) -> bool:
        return figure >= self.value if self.bound is Bound.AT_LEAST else figure <= self.value


@dataclass(slots=True)
class Results:
    """By measure and contestant, a value a round; in the order in which they came."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, measure: str, unit: str, contestant: str, value: float) -> None:
        self.units[measure] = unit
        self.values.setdefault(measure, {}).setdefault(contestant, []).append(value)


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant in one measure. `ratio` is the first contestant's figure by this one's."""

    measure: str
    unit: str
    contestant: str
    spread: Spread
    ratio: Spread | None
    target: Target | None
    is_met: bool | None


def rows(results: Results, targets: tuple[Target, ...]) -> Iterator[Row]:
    """In each measure the first contestant is the one that the others are held against."""
    for measure, by_contestant in results.values.items():
        first = next(iter(by_contestant))
        for contestant, values in by_contestant.items():
            own = contestant == first
            ratio = None if own else paired_ratio(by_contestant[first], values)
            spread = Spread.of(values)
            target = _target(targets, measure, None if own else contestant)
            judged = spread if ratio is None else ratio
            yield Row(
                measure,
                results.units[measure],
                contestant,
                spread,
                ratio,
                target,
                None if target is None else target.is_met(judged.median),
            )


def _target(targets: tuple[Target, ...], measure: str, against: str | None) -> Target | None:
    found = (target for target in targets if (target.measure, target.against) == (measure, against))
    return next(found, None)
