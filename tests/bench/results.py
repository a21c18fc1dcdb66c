"""Measured values, and their targets."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from tests.bench.figures import Spread, paired_ratio


class Bound(StrEnum):
    AT_LEAST = "≥"
    AT_MOST = "≤"


class Verdict(StrEnum):
    """In the order of preference: of two alternative targets, the first verdict counts."""

    REACHED = "reached"
    NOT_DECIDED = "not decided"
    NOT_REACHED = "not reached"


class Ratio(Enum):
    """The meaning of the ratio in a row."""

    PRODUCT_BY_THIS = "of the product's figure by this one"
    THIS_BY_FIRST = "of this figure by the first: the product in two configurations"
    NONE = "no ratio"


@dataclass(frozen=True, slots=True)
class Target:
    """A target of a figure, or of the ratio in the row that `row` names.

    With `or_figure`, the target is also reached if the product's figure keeps this bound, whatever the ratio.
    On a machine with fewer than `cores`, a lower figure decides nothing.
    """

    measure: str
    bound: Bound
    value: float
    row: str | None = None
    or_figure: float | None = None
    cores: int = 0

    def __str__(self) -> str:
        alternative = "" if self.or_figure is None else f", or {self.bound} {self.or_figure:g}"
        cores = "" if not self.cores else f" with {self.cores} cores"
        return f"{self.bound} {self.value:g}{alternative}{cores}"

    def judge(self, spread: Spread, product: Spread, cores: int) -> Verdict:
        """`spread` is that of the figure or of the ratio, `product` that of the product's figures."""
        verdict = self._compare(spread, self.value)
        if self.or_figure is not None:
            verdict = min(verdict, self._compare(product, self.or_figure), key=list(Verdict).index)
        if verdict is Verdict.NOT_REACHED and cores < self.cores:
            return Verdict.NOT_DECIDED
        return verdict

    def _compare(self, spread: Spread, value: float) -> Verdict:
        """Not decided if some rounds keep the bound and others do not."""
        keeps = {self._keeps(spread.low, value), self._keeps(spread.high, value)}
        if len(keeps) == 2:
            return Verdict.NOT_DECIDED
        return Verdict.REACHED if keeps == {True} else Verdict.NOT_REACHED

    def _keeps(self, figure: float, value: float) -> bool:
        return figure >= value if self.bound is Bound.AT_LEAST else figure <= value


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
    verdict: Verdict | None
    """None where there is no target."""


def rows(results: Results, targets: tuple[Target, ...], cores: int) -> Iterator[Row]:
    """A row for each contestant in each measure. `cores` is the number that the machine has."""
    for measure in results.measures.values():
        product = Spread.of(next(iter(measure.values.values())))
        for contestant, values in measure.values.items():
            ratio = _ratio(measure, contestant)
            target = _target(targets, measure.name, contestant, has_ratio=ratio is not None)
            spread = Spread.of(values)
            verdict = None if target is None else target.judge(ratio or spread, product, cores)
            yield Row(measure.name, measure.unit, contestant, spread, ratio, target, verdict)


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
    """A target without a row applies to each figure without a ratio; the other targets name their row."""
    for target in targets:
        if target.measure == measure and target.row in ((contestant,) if has_ratio else (contestant, None)):
            return target
    return None
