"""The benchmark's pure parts: rates, percentiles, ratios, targets, the order of a backlog."""

import os
from datetime import UTC, datetime, timedelta
from itertools import islice
from time import process_time

import pytest
from pamqp.commands import Basic

from schemas.events import parse
from tests.bench.backlog import interleaved
from tests.bench.broker import Stored
from tests.bench.conditions import command
from tests.bench.figures import Sample, Spread, TooFewSamples, paired_ratio, percentile, rate, serial_rate
from tests.bench.lineup import CONSOLE, CONSUMERS, INGEST, STOCKHOOK, WITHOUT_FEED
from tests.bench.measures.hot import late_events
from tests.bench.measures.preload import HOT_PART
from tests.bench.plan import Options, describe, minutes
from tests.bench.report import Report
from tests.bench.results import Bound, Ratio, Results, Row, Target, Verdict, rows
from tests.bench.run import MEASURES
from tests.bench.targets import TARGETS
from tests.bench.usage import CpuCost, CpuUsage

EVENLY = [Sample(at / 10, at * 10) for at in range(11)]


def test_a_rate_is_taken_between_a_tenth_and_nine_tenths() -> None:
    slow_start = [Sample(-60.0, 0), *EVENLY[1:]]
    slow_end = [*EVENLY[:-1], Sample(60.0, 100)]

    assert rate(EVENLY, 100) == pytest.approx(100)
    assert rate(slow_start, 100) == pytest.approx(100)
    assert rate(slow_end, 100) == pytest.approx(100)


def test_between_two_looks_all_goes_evenly() -> None:
    seldom = [Sample(0.0, 0), Sample(2.0, 200)]

    assert rate(seldom, 200) == pytest.approx(100)


def test_looks_at_which_nothing_has_moved_change_nothing() -> None:
    idle = [Sample(-2.0, 0), Sample(-1.0, 0), *EVENLY, Sample(3.0, 100), Sample(4.0, 100)]

    assert rate(idle, 100) == pytest.approx(100)


def test_a_requeued_message_counts_once() -> None:
    requeued = [Sample(0.0, 0), Sample(0.5, 50), Sample(0.6, 40), Sample(1.2, 100)]

    assert rate(requeued, 100) == pytest.approx(80 / (1.1 - 0.1))


def test_a_rate_needs_enough_events() -> None:
    with pytest.raises(TooFewSamples, match="never saw 90 done, only up to 80"):
        rate(EVENLY[:9], 100)


def test_a_percentile_is_a_value_that_was_seen() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]

    assert [percentile(values, share) for share in (0, 0.2, 0.5, 0.99, 1)] == [1, 1, 3, 5, 5]
    assert percentile([7.0], 0.5) == 7


def test_a_round_is_compared_with_itself() -> None:
    # In the second round the machine was half as fast.
    assert paired_ratio([200, 100, 220], [100, 50, 100]) == Spread(2, 2, 2.2)


def test_a_round_that_broke_off_is_left_out() -> None:
    assert paired_ratio([200, 100], [100]) == Spread(2, 2, 2)


def stored(queue: str, number: int) -> Stored:
    return Stored(queue, "", "", Basic.Properties(), str(number).encode())


def test_a_backlog_begins_with_some_of_each_queue() -> None:
    taken = [stored("parts", number) for number in range(4)] + [
        stored("orders", number) for number in range(2)
    ]
    laid = [(message.queue, message.body) for message in interleaved(taken)]

    assert laid == [
        ("parts", b"0"),
        ("orders", b"0"),
        ("parts", b"1"),
        ("parts", b"2"),
        ("orders", b"1"),
        ("parts", b"3"),
    ]


def of_two_rounds(ratio: Ratio) -> list[Row]:
    results = Results()
    for ours, theirs in ((300, 100), (150, 50)):
        results.add("drain", "events/s", "stockhook", ours, ratio)
        results.add("drain", "events/s", "other", theirs, ratio)
    return list(rows(results, (Target("drain", Bound.AT_LEAST, 3, "other"),), cores=2))


def test_the_product_is_held_against_the_others() -> None:
    ours, theirs = of_two_rounds(Ratio.PRODUCT_BY_THIS)

    assert (ours.spread, ours.ratio, ours.target, ours.verdict) == (Spread(225, 150, 300), None, None, None)
    assert (theirs.ratio, theirs.verdict) == (Spread(3, 3, 3), Verdict.REACHED)


def test_a_measure_of_only_the_product_is_compared_with_its_first_figure() -> None:
    _, second = of_two_rounds(Ratio.THIS_BY_FIRST)

    assert second.ratio is not None
    assert second.ratio.median == pytest.approx(1 / 3)
    assert second.verdict is Verdict.NOT_REACHED


def test_counts_have_no_ratio() -> None:
    results = Results()
    for count in (0, 0):
        results.add("retried", "events", "1 consumer", count, Ratio.NONE)
        results.add("retried", "events", "2 consumers", count + 1, Ratio.NONE)
    one, two = rows(results, (Target("retried", Bound.AT_MOST, 0),), cores=2)

    assert (one.verdict, two.verdict) == (Verdict.REACHED, Verdict.NOT_REACHED)


def test_a_target_of_a_figure_can_name_one_row() -> None:
    results = Results()
    for size in ("small", "large"):
        results.add("rebuild", "events/s", size, 10, Ratio.NONE)
    small, large = rows(results, (Target("rebuild", Bound.AT_LEAST, 20, "large"),), cores=2)

    assert (small.verdict, large.verdict) == (None, Verdict.NOT_REACHED)


ANY = Spread(7, 7, 7)


@pytest.mark.parametrize(
    ("bound", "low", "high", "verdict"),
    [
        (Bound.AT_LEAST, 1.1, 1.2, Verdict.REACHED),
        (Bound.AT_LEAST, 1.09, 1.2, Verdict.NOT_DECIDED),
        (Bound.AT_LEAST, 1.0, 1.09, Verdict.NOT_REACHED),
        (Bound.AT_MOST, 1.0, 1.1, Verdict.REACHED),
        (Bound.AT_MOST, 1.0, 1.11, Verdict.NOT_DECIDED),
        (Bound.AT_MOST, 1.11, 1.2, Verdict.NOT_REACHED),
    ],
)
def test_all_rounds_decide_about_a_target(bound: Bound, low: float, high: float, verdict: Verdict) -> None:
    assert Target("drain", bound, 1.1).judge(Spread((low + high) / 2, low, high), ANY, 2) is verdict


@pytest.mark.parametrize(
    ("ratio", "product", "verdict"),
    [
        (Spread(1, 1, 1), Spread(9, 9, 9), Verdict.REACHED),
        (Spread(3, 3, 3), Spread(1, 1, 1.2), Verdict.REACHED),
        (Spread(3, 3, 3), Spread(1, 1, 1.3), Verdict.NOT_DECIDED),
        (Spread(1, 1, 3), Spread(9, 9, 9), Verdict.NOT_DECIDED),
        (Spread(3, 3, 3), Spread(9, 9, 9), Verdict.NOT_REACHED),
    ],
)
def test_a_small_figure_of_the_product_reaches_a_target_too(
    ratio: Spread, product: Spread, verdict: Verdict
) -> None:
    target = Target("p50", Bound.AT_MOST, 1.5, "other", or_figure=1.2)

    assert target.judge(ratio, product, 2) is verdict
    assert str(target) == "≤ 1.5, or ≤ 1.2"


@pytest.mark.parametrize(
    ("ratio", "cores", "verdict"),
    [(1.4, 4, Verdict.NOT_REACHED), (1.4, 2, Verdict.NOT_DECIDED), (1.5, 2, Verdict.REACHED)],
)
def test_a_machine_with_few_cores_does_not_miss_a_target_of_scaling(
    ratio: float, cores: int, verdict: Verdict
) -> None:
    target = Target("scaling", Bound.AT_LEAST, 1.5, "2 consumers", cores=4)

    assert target.judge(Spread.of([ratio]), ANY, cores) is verdict


def test_a_serial_rate_adds_the_time_of_each_part() -> None:
    assert serial_rate(10_000, 10_000) == pytest.approx(5_000)
    assert serial_rate(20_000, 5_000) == pytest.approx(4_000)


def test_cpu_cost_counts_from_its_creation() -> None:
    cost = CpuCost({"this process": lambda: [os.getpid()], "no process": lambda: []})
    end = process_time() + 0.05
    while process_time() < end:
        pass

    # The kernel counts in ticks of ten milliseconds.
    assert cost.seconds()["this process"] >= 0.03
    assert cost.seconds()["no process"] == 0


def test_the_main_table_fits_in_twenty_minutes() -> None:
    table = {name: planned for name, planned in MEASURES.items() if planned.in_table}
    total = sum(planned.seconds(Options().rounds) for planned in table.values())

    assert total < 20 * 60
    assert next(iter(describe(table, Options()))) == f"plan: 2 rounds, about {minutes(total)}"


def test_the_plan_lists_each_measure() -> None:
    plan = {"hot": MEASURES["hot"]}

    assert [line.split()[0] for line in describe(plan, Options(rounds=1))] == ["plan:", "hot"]


def test_no_two_targets_are_of_the_same_row() -> None:
    named = [(target.measure, target.row) for target in TARGETS]

    assert len(set(named)) == len(named)


def test_json_has_the_same_content_as_the_table() -> None:
    report = Report(of_two_rounds(Ratio.PRODUCT_BY_THIS), [("turns", "two")], ["drain: Failed: lost"])

    assert report.as_json() == {
        "conditions": [{"what": "turns", "how": "two"}],
        "problems": ["drain: Failed: lost"],
        "interrupted": False,
        "figures": [
            {
                "measure": "drain",
                "unit": "events/s",
                "contestant": "stockhook",
                "median": 225,
                "low": 150,
                "high": 300,
                "ratio": None,
                "target": None,
                "verdict": None,
            },
            {
                "measure": "drain",
                "unit": "events/s",
                "contestant": "other",
                "median": 75,
                "low": 50,
                "high": 100,
                "ratio": {"median": 3, "low": 3, "high": 3},
                "target": "≥ 3",
                "verdict": "reached",
            },
        ],
    }


def test_cpu_time_is_a_share_of_a_core() -> None:
    usage = CpuUsage({}, [(0.0, {"broker": 5.0}), (1.0, {"broker": 5.1}), (3.0, {"broker": 6.1})])

    assert usage.shares(0.5, 3.5) == {"broker": pytest.approx(0.5)}
    assert usage.shares(2.5, 3.5) == {}


def test_the_measures_are_known_by_name() -> None:
    assert list(MEASURES) == [
        "drain",
        "drain-buyback",
        "drain-mixed",
        "ingest",
        "latency",
        "memory",
        "scaling",
        "hot",
        "feed",
        "cluster",
        "growth",
        "rebuild",
        "tracing",
        "strangers",
        "retries",
        "console",
    ]


def test_the_product_is_measured_with_its_default_settings() -> None:
    assert {**STOCKHOOK.environment, **INGEST.environment, **CONSOLE.environment} == {}
    assert "with the change feed" in STOCKHOOK.settings
    assert [each.name for each in (*CONSUMERS, WITHOUT_FEED) if each.publishes_changes] == [STOCKHOOK.name]


def test_a_run_is_repeated_by_its_command() -> None:
    assert command([]) == "make bench"
    assert command(["--save", "main.json", "--json"]) == "make bench"
    assert (
        command(["--only", "hot", "--save=hot.json", "--rounds", "1"])
        == 'make bench ARGS="--only hot --rounds 1"'
    )


def test_events_of_the_part_with_many_are_valid_and_older_than_its_newest() -> None:
    oldest, newest = datetime.now(UTC) - timedelta(days=700), datetime.now(UTC) - timedelta(days=1)
    events = list(islice(late_events(), 20))
    payloads = [parse(event.provider, event.body) for event in events]

    assert {payload.entity_id for payload in payloads} == {HOT_PART}
    assert all(oldest < payload.occurred_at < newest for payload in payloads)
    assert len({payload.occurred_at for payload in payloads}) == len(events)
