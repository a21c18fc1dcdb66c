"""The text of metrics, of which only some series are parsed."""

import math

import pytest

from worker.tools.ops_ports import _series

NAMES = frozenset({"stockhook_a", "stockhook_b_bucket"})


def test_only_the_series_with_these_names_are_parsed() -> None:
    text = (
        "# HELP stockhook_a text\n# TYPE stockhook_a gauge\nstockhook_a 1.5\nstockhook_other nonsense\n"
        'stockhook_a{name="a } b",other="\\"x\\\\"} 2.0\nstockhook_b_bucket{le="+Inf"} NaN\n'
    )
    series = dict(_series(text, NAMES))
    again = dict(_series(text.replace("2.0", "3e+06"), NAMES))
    labelled = ("stockhook_a", frozenset({("name", "a } b"), ("other", '"x\\')}))

    assert len(series) == 3
    assert series["stockhook_a", frozenset()] == 1.5
    assert (series[labelled], again[labelled]) == (2, 3e6)
    assert math.isnan(series["stockhook_b_bucket", frozenset({("le", "+Inf")})])


@pytest.mark.parametrize(
    "line",
    ["stockhook_a", "stockhook_a x", 'stockhook_a{b="1} 2', "stockhook_a 1 1700000000", "stockhook_a{ 1"],
)
def test_what_is_no_series_of_ours_is_an_error(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # each has another text
        dict(_series(line, NAMES))
