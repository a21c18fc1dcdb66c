"""What the console shows of snapshots: states, ages, rates, losses. Nothing unknown is shown as 0."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import generate_latest

from tests.support.stack import delays
from worker.amqp.channel import QueueDepth
from worker.change_feed.backlog import Feed
from worker.console.charts import condensed, hour
from worker.console.pipeline import (
    BEHIND_SECONDS,
    FamilyView,
    Observed,
    PipelineView,
    State,
    event_age_quantiles,
    pipeline,
)
from worker.console.snapshot import SERIES, Snapshot, Stored
from worker.observability import metrics
from worker.postgres.pauses import Pause
from worker.tools.audit import Audit, SourceAccount
from worker.tools.ops_ports import NoAnswer, Process

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
DELAYS = delays(7, 35)

ORDERS = SourceAccount(
    source=1,
    family="orders",
    accepted=10,
    applied=4,
    duplicates=9,
    dead=1,
    retrying=((5, 6),),
    unaccounted=((9, 10),),
)


def _depths(**waiting: int) -> dict[str, QueueDepth | None]:
    """Of the queues of orders, each with a consumer."""
    names = {"queue": "", "first": ".retry.7s", "second": ".retry.35s", "dead": ".dead"}
    return {f"stockhook.orders{names[name]}": QueueDepth(number, 1) for name, number in waiting.items()}


def _consumers(**series: float) -> Process:
    family = frozenset({("family", "orders")})
    return Process(
        "127.0.0.1:9090", True, {}, {(f"stockhook_{name}", family): value for name, value in series.items()}
    )


def _ingest(received: float, spool: float = 0) -> Process:
    labels = frozenset({("provider", "ovoko"), ("result", "accepted")})
    series = {
        ("stockhook_received_total", labels): received,
        ("stockhook_spool_open", frozenset[tuple[str, str]]()): 1.0,
        ("stockhook_spool_events", frozenset[tuple[str, str]]()): spool,
    }
    return Process("127.0.0.1:9091", True, {}, series)


def _snapshot(
    at: datetime = NOW,
    queues: Mapping[str, QueueDepth | None] | None = None,
    stored: Stored | None = None,
    *processes: Process | NoAnswer,
) -> Snapshot:
    return Snapshot(at, queues, stored, processes)


def _orders(view: PipelineView) -> FamilyView:
    return next(family for family in view.families if family.name == "orders")


def _state(snapshot: Snapshot, observed: Observed | None = None) -> State:
    return _orders(pipeline(snapshot, observed or Observed(), DELAYS)).state


def test_a_family_with_a_consumer_and_an_empty_queue_is_healthy() -> None:
    assert _state(_snapshot(queues=_depths(queue=0))) is State.HEALTHY


@pytest.mark.parametrize(
    ("series", "state"),
    [
        ({"waiting_for_database": 1.0, "circuit_open": 1.0}, State.WAITING),
        ({"waiting_for_database": 0.0, "circuit_open": 1.0}, State.CIRCUIT_OPEN),
        ({"waiting_for_database": 0.0, "circuit_open": 0.0}, State.HEALTHY),
    ],
)
def test_what_a_consumer_reports_is_the_state(series: dict[str, float], state: State) -> None:
    assert _state(_snapshot(NOW, _depths(queue=0), None, _consumers(**series))) is state


def test_a_users_pause_comes_before_the_absence_of_consumers() -> None:
    pause = Pause("operator@host", "a stocktaking", NOW)
    family = _orders(
        pipeline(
            _snapshot(NOW, {"stockhook.orders": QueueDepth(5, 0)}, Stored(pauses={"orders": pause})),
            Observed(),
            DELAYS,
        )
    )

    assert family.state is State.PAUSED
    assert family.pause == str(pause)


def test_a_queue_without_consumers_is_a_state() -> None:
    assert _state(_snapshot(queues={"stockhook.orders": QueueDepth(5, 0)})) is State.NO_CONSUMERS


def test_a_queue_that_cannot_be_read_is_unknown() -> None:
    assert _state(_snapshot()) is State.UNKNOWN
    assert _state(_snapshot(queues={"stockhook.orders": None})) is State.UNKNOWN


def test_a_family_is_behind_once_an_event_waits_for_long() -> None:
    old = {"orders": NOW - timedelta(seconds=BEHIND_SECONDS + 1)}
    snapshot = _snapshot(NOW, _depths(queue=1), Stored(last_logged=old))

    assert _state(snapshot) is State.BEHIND
    assert _state(snapshot, Observed(last_empty={"orders": NOW - timedelta(seconds=2)})) is State.HEALTHY


def test_the_oldest_event_came_after_the_last_logged_one_and_after_the_queue_was_empty() -> None:
    stored = Stored(last_logged={"orders": NOW - timedelta(days=3)})
    snapshot = _snapshot(NOW, _depths(queue=1), stored)

    def oldest(observed: Observed) -> float | None:
        return _orders(pipeline(snapshot, observed, DELAYS)).oldest_seconds

    assert oldest(Observed()) == timedelta(days=3).total_seconds()
    assert oldest(Observed(last_empty={"orders": NOW - timedelta(seconds=4)})) == 4
    assert (
        _orders(pipeline(_snapshot(NOW, _depths(queue=0), stored), Observed(), DELAYS)).oldest_seconds is None
    )


def test_what_cannot_be_read_is_none_and_has_a_reason() -> None:
    snapshot = Snapshot(
        NOW, None, None, [NoAnswer("consumers:9090", "it cannot be connected to")], "unreachable", "starting"
    )
    view = pipeline(snapshot, Observed(), DELAYS)
    family = _orders(view)

    assert (family.queued, family.in_flight, family.dead, family.losses, view.ingest, view.losses) == (
        None,
    ) * 6
    assert [retry.events for retry in family.retries] == [None, None]
    assert set(map(type, (view.totals.queued, view.totals.dead, view.totals.in_flight))) == {type(None)}
    assert view.troubles == (
        "The broker cannot be read: unreachable",
        "The database cannot be read: starting",
        "No answer from consumers:9090: it cannot be connected to",
    )


def test_a_process_that_is_not_ready_says_why() -> None:
    process = Process("127.0.0.1:9090", False, {"orders": "waits for the database"}, {})

    assert pipeline(_snapshot(NOW, None, None, process), Observed(), DELAYS).troubles == (
        "127.0.0.1:9090 is not ready: orders: waits for the database",
    )


def test_the_losses_of_a_family_add_up() -> None:
    losses = _orders(pipeline(_snapshot(stored=Stored([ORDERS])), Observed(), DELAYS)).losses

    assert losses is not None
    assert losses.accepted == 10
    parts = (losses.applied, losses.duplicates, losses.retrying, losses.dead, losses.waiting)
    assert parts == (4, 1, 2, 1, 2)
    assert sum(parts) == losses.accepted
    assert losses.missing is None, "no audit yet"


def _audit(*missing: tuple[int, int, int]) -> Audit:
    return Audit((), {}, 0, 0, None, {"orders": missing} if missing else {}, Feed((), ()))


@pytest.mark.parametrize(
    ("earlier", "later", "number"),
    [
        ((), (), 0),
        (((1, 5, 9),), (), 0),
        ((), ((1, 5, 9),), 0),
        (((1, 5, 9),), ((1, 8, 20),), 2),
        (((1, 5, 9),), ((2, 5, 9),), 0),
        (((1, 5, 9), (2, 1, 1)), ((1, 5, 9), (2, 1, 1)), 6),
    ],
)
def test_what_two_audits_miss_is_missing(
    earlier: tuple[tuple[int, int, int], ...], later: tuple[tuple[int, int, int], ...], number: int
) -> None:
    observed = Observed(audits=[(NOW, _audit(*earlier)), (NOW, _audit(*later))])
    view = pipeline(_snapshot(stored=Stored([ORDERS])), observed, DELAYS)

    assert view.losses is not None
    assert view.losses.missing == number


def test_rates_are_averages_over_the_last_seconds() -> None:
    before = NOW - timedelta(seconds=8)
    earlier = _snapshot(
        before, None, Stored([SourceAccount(1, "orders", 0, 100, 0, 0, (), ())]), _ingest(1000)
    )
    snapshot = _snapshot(
        NOW, None, Stored([SourceAccount(1, "orders", 0, 180, 0, 0, (), ())]), _ingest(1040, spool=3)
    )
    view = pipeline(snapshot, Observed(recent=[earlier, snapshot]), DELAYS)

    assert _orders(view).applied_per_second == 10
    assert view.ingest is not None
    assert (view.ingest.received_per_second, view.ingest.spool_events) == (5, 3)


def test_a_counter_that_fell_belongs_to_a_new_process() -> None:
    earlier, snapshot = (
        _snapshot(NOW - timedelta(seconds=10), None, None, _ingest(1000)),
        _snapshot(NOW, None, None, _ingest(50)),
    )
    view = pipeline(snapshot, Observed(recent=[earlier]), DELAYS)

    assert view.ingest is not None
    assert view.ingest.received_per_second == 5


def test_the_last_event_of_a_retry_queue_is_due_after_its_delay() -> None:
    first, second = _orders(
        pipeline(_snapshot(queues=_depths(first=2, second=0)), Observed(), DELAYS)
    ).retries

    assert (first.delay, first.events, first.due_by) == ("7s", 2, NOW + timedelta(seconds=7))
    assert (second.delay, second.events, second.due_by) == ("35s", 0, None)


def test_the_age_of_events_is_that_of_the_time_between_two_snapshots() -> None:
    def consumers(**counts: float) -> Process:
        series = {
            ("stockhook_event_age_seconds_bucket", frozenset({("family", "orders"), ("le", bound)})): count
            for bound, count in zip(("0.1", "1.0", "+Inf"), counts.values(), strict=True)
        }
        return Process("127.0.0.1:9090", True, {}, series)

    earlier = _snapshot(NOW, None, None, consumers(a=100, b=100, c=100))
    snapshot = _snapshot(NOW, None, None, consumers(a=150, b=199, c=200))

    assert event_age_quantiles("orders", snapshot, earlier, (0.5, 0.95)) == (0.1, 1.0)
    assert event_age_quantiles("orders", snapshot, snapshot, (0.5,)) == (None,)


def test_a_chart_has_a_place_for_each_step_of_the_hour() -> None:
    assert hour([1, None]) == [None] * 238 + [1, None]


def test_the_metrics_of_a_snapshot_are_those_that_processes_export() -> None:
    text = b"".join(map(generate_latest, (metrics.INGEST, metrics.CONSUMER))).decode()
    exported = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}

    assert {name.removesuffix("_bucket") for name in SERIES} <= exported


def test_fewer_points_keep_the_peaks() -> None:
    assert condensed([1, 9, 2, None, None, None], 3) == [9, 2, None]
    assert condensed([1, None], 3) == [1, None]
