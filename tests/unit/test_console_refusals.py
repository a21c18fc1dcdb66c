"""What the console shows of refusals: nothing unknown is 0, and a new process is no decrease."""

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import generate_latest

from worker.console.refusals import MEANINGS, TAKEN, Increases, Refusals, refusals
from worker.console.snapshot import REFUSAL_SERIES, Snapshot
from worker.observability import metrics
from worker.tools.ops_ports import NoAnswer, Process

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def _ingest(address: str = "a:9090", **received: float) -> Process:
    """`x401` stands for the result 401 of ovoko."""
    series = {
        (
            "stockhook_received_total",
            frozenset({("provider", "ovoko"), ("result", result.lstrip("x"))}),
        ): count
        for result, count in received.items()
    }
    return Process(address, True, {}, series)


def _snapshot(seconds: float, *processes: Process | NoAnswer) -> Snapshot:
    return Snapshot(NOW + timedelta(seconds=seconds), None, None, processes)


def _after(*snapshots: Snapshot) -> Refusals:
    increases = Increases()
    for snapshot in snapshots:
        increases.add(snapshot)
    return refusals(snapshots[-1], increases)


def _counts(view: Refusals) -> dict[str, tuple[int, int]]:
    assert view.marketplaces is not None
    return {count.name: (count.total, count.recent) for one in view.marketplaces for count in one.refusals}


def test_every_answer_of_the_ingest_is_accepted_or_has_a_meaning() -> None:
    assert set(metrics.RESULTS) == {*TAKEN, *MEANINGS} - {"431"}
    assert set(metrics.HTTP_REFUSALS) <= MEANINGS.keys()
    exported = generate_latest(metrics.INGEST).decode()
    assert all(f"# TYPE {name} counter" in exported for name in REFUSAL_SERIES)


def test_the_last_hour_counts_from_the_first_answer() -> None:
    view = _after(
        _snapshot(0, _ingest(x401=5, accepted=90)),
        _snapshot(15, _ingest(x401=6, accepted=92)),
        _snapshot(30, _ingest(x401=6, x413=1, accepted=92)),
    )

    assert _counts(view) == {"401": (6, 1), "413": (1, 1)}
    assert view.marketplaces is not None
    (ovoko,) = view.marketplaces
    assert (ovoko.taken, ovoko.taken_recently) == (92, 2)
    assert {count.name: count.share for count in ovoko.refusals} == {"401": 0.25, "413": 0.25}
    assert view.since == NOW


def test_a_new_process_at_the_same_address_counts_from_0() -> None:
    view = _after(_snapshot(0, _ingest(x401=5)), _snapshot(15, _ingest(x401=2)))

    assert _counts(view) == {"401": (2, 2)}


def test_processes_are_added_and_one_without_an_answer_is_compared_with_its_last() -> None:
    away = NoAnswer("b:9090", "no answer within 2 s")
    view = _after(
        _snapshot(0, _ingest(x503=1), _ingest("b:9090", x503=10)),
        _snapshot(15, _ingest(x503=2), away),
        _snapshot(30, _ingest(x503=2), _ingest("b:9090", x503=14)),
    )
    partial = _after(_snapshot(0, _ingest(x503=1), away))

    assert _counts(view) == {"503": (16, 5)}
    assert view.no_answer == ()
    assert partial.no_answer == ("b:9090: no answer within 2 s",)


def test_without_an_ingest_nothing_is_known() -> None:
    view = _after(
        _snapshot(0, NoAnswer("a:9090", "it cannot be connected to"), Process("c:9090", True, {}, {}))
    )

    assert view.marketplaces is None
    assert view.door is None
    assert view.no_answer == ("a:9090: it cannot be connected to",)


def test_what_is_older_than_an_hour_is_forgotten() -> None:
    snapshots = [_snapshot(15 * step, _ingest(x401=step)) for step in range(1000)]
    increases = Increases()
    for snapshot in snapshots:
        increases.add(snapshot)
    view = refusals(snapshots[-1], increases)

    assert _counts(view) == {"401": (999, 241)}
    assert view.since == snapshots[-1].at - timedelta(hours=1)
    assert len(increases._steps) == 241


def test_processes_that_are_gone_are_forgotten() -> None:
    increases = Increases()
    for step in range(1000):
        increases.add(_snapshot(15 * step, _ingest(f"10.0.0.{step}:9090", x401=1)))

    assert len(increases._last) == 241


@pytest.mark.parametrize(
    ("series", "labels", "name"),
    [
        ("stockhook_http_refused_total", {("status", "431")}, "HTTP 431"),
        ("stockhook_http_connections_refused_total", {("reason", "handshake")}, "connection: handshake"),
        ("stockhook_unknown_paths_total", set(), "unknown path"),
    ],
)
def test_what_is_refused_before_a_marketplace_is_known_is_counted(
    series: str, labels: set[tuple[str, str]], name: str
) -> None:
    def ingest(count: float) -> Process:
        process = _ingest(accepted=0)
        return Process("a:9090", True, {}, {**process.series, (series, frozenset(labels)): count})

    view = _after(_snapshot(0, ingest(1)), _snapshot(15, ingest(3)))

    assert view.door is not None
    assert [(one.name, one.total, one.recent) for one in view.door] == [(name, 3, 2)]
