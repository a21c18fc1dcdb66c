"""Measured values, and their targets."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from tests.bench.figures import Spread, paired_ratio


class Bound(StrEnum):
    AT_LEAST = "≥"
    AT_MOST = "≤"


class Ratio(Enum):
    """The meaning of the ratio in a row."""

    PRODUCT_BY_THIS = "of the product's figure by this one"
    THIS_BY_FIRST = "of this figure by the first: the product in two configurations"
    NONE = "no ratio"


@dataclass(frozen=True, slots=True)
class Target:
    """A target of a figure, or of the ratio in the row that `row` names."""

    measure: str
    bound: Bound
    value: float
    row: str | None = None

    def is_met(self, figure: float) -> bool:
        return figure >= self.value if self.bound is Bound.AT_LEAST else figure <= self.value


@dataclass(slots=True)
class Measure:
    """One value per contestant and round. The first contestant is the product, or its simplest variant."""

    name: str
    unit: str
    ratio: Ratio
    values: dict[str, list[float]] = field(default_factory=dict)


@dataclass(slots=True)
class Results:
    """All measures, in the order of their first value."""

    measures: dict[str, Measure] = field(default_factory=dict)

    def add(
        self,
        measure: str,
        unit: str,
        contestant: str,
        value: float,
        ratio: Ratio = Ratio.PRODUCT_BY_THIS,
    ) -> None:
        entry = self.measures.setdefault(measure, Measure(measure, unit, ratio))
        entry.values.setdefault(contestant, []).append(value)


@dataclass(frozen=True, slots=True)
class Row:
    measure: str
    unit: str
    contestant: str
    spread: Spread
    ratio: Spread | None
    target: Target | None

    @property
    def is_met(self) -> bool | None:
        """None where there is no target."""
        judged = self.spread if self.ratio is None else self.ratio
        return None if self.target is None else self.target.is_met(judged.median)


def rows(results: Results, targets: tuple[Target, ...]) -> Iterator[Row]:
    """A row for each contestant in each measure."""
    for measure in results.measures.values():
        for contestant, values in measure.values.items():
            ratio = _ratio(measure, contestant)
            yield Row(
                measure.name,
                measure.unit,
                contestant,
                Spread.of(values),
                ratio,
                _target(targets, measure.name, contestant, has_ratio=ratio is not None),
            )


def _ratio(measure: Measure, contestant: str) -> Spread | None:
    first = next(iter(measure.values))
    if contestant == first:
        return None
    match measure.ratio:
        case Ratio.PRODUCT_BY_THIS:
            return paired_ratio(measure.values[first], measure.values[contestant])
        case Ratio.THIS_BY_FIRST:
            return paired_ratio(measure.values[contestant], measure.values[first])
        case Ratio.NONE:
            return None


def _target(targets: tuple[Target, ...], measure: str, contestant: str, *, has_ratio: bool) -> Target | None:
    """A target without a row applies to the product's figure."""
    for target in targets:
        if target.measure == measure and target.row == (contestant if has_ratio else None):
            return target
    return None
