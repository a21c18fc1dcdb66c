"""The charts of families: the last hour from our snapshots, longer ones from Prometheus."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from consumers.registry import FAMILIES
from worker.console.charts import Charts, condensed
from worker.console.contract import Console, Parameters
from worker.console.sentences import as_sentence
from worker.tools.prometheus import PrometheusUnavailable, Span, query_range

# Hours, and how a heading names them.
RANGES = {1: "last hour", 6: "last 6 hours", 24: "last 24 hours", 168: "last 7 days"}

POINTS = 120

# How long an answer of Prometheus, or the reason why there is none, is shown to all viewers.
FRESH_SECONDS = 30.0

# A rate needs two scrapes, of which one may fail.
SHORTEST_RATE = timedelta(minutes=1)

# The highest of each step, so that no peak is lost.
WAITING = 'max by (family) (max_over_time(stockhook_queue_messages{{role="work"}}[{step}s]))'
APPLIED = "sum by (family) (rate(stockhook_applied_total[{window}s]))"

Rows = Mapping[str, list[float | None]]


@dataclass(frozen=True, slots=True)
class History:
    """`waiting` and `applied` per family, the oldest first. None stands for what is not known.

    `ranges` are the hours that can be requested.
    """

    hours: int
    label: str
    ranges: tuple[int, ...]
    trouble: str | None
    waiting: dict[str, list[float | None]]
    applied: dict[str, list[float | None]]


@dataclass(frozen=True, slots=True)
class _Longer:
    waiting: Rows
    applied: Rows
    trouble: str | None = None


async def history(console: Console, parameters: Parameters, points: int = POINTS) -> History:
    """Of the hours in the query, by default 1."""
    hours, trouble = _hours(parameters.get("hours", ""), console)
    if hours == 1:
        shown = console.poller.charts(points)
    else:
        longer = await console.shared.get(("history", hours), FRESH_SECONDS, lambda: _longer(console, hours))
        trouble = longer.trouble
        shown = Charts(
            {family: condensed(longer.waiting.get(family, []), points) for family in FAMILIES},
            {family: condensed(longer.applied.get(family, []), points) for family in FAMILIES},
        )
    return History(
        hours=hours,
        label=RANGES[hours],
        ranges=tuple(RANGES) if console.settings.prometheus_url is not None else (),
        trouble=trouble,
        waiting=shown.waiting,
        applied=shown.applied,
    )


def _hours(text: str, console: Console) -> tuple[int, str | None]:
    if text in ("", "1"):
        return 1, None
    if text not in map(str, RANGES):
        choices = ", ".join(map(str, RANGES))
        return 1, f"Charts have {choices} hours: this is the last hour."
    if console.settings.prometheus_url is None:
        return 1, "Charts of more than the last hour need STOCKHOOK_PROMETHEUS_URL: this is the last hour."
    return int(text), None


async def _longer(console: Console, hours: int) -> _Longer:
    """Two queries for all families."""
    assert console.settings.prometheus_url is not None, "the caller has checked it"
    url = console.settings.prometheus_url.get_secret_value()
    step = timedelta(hours=hours) / POINTS
    span = Span(datetime.now(UTC), step, POINTS)
    seconds, window = (f"{one.total_seconds():g}" for one in (step, max(step, SHORTEST_RATE)))
    try:
        waiting, applied = await asyncio.gather(
            query_range(url, WAITING.format(step=seconds), span, "family"),
            query_range(url, APPLIED.format(window=window), span, "family"),
        )
    except PrometheusUnavailable as unavailable:
        return _Longer({}, {}, as_sentence(unavailable.sentence))
    trouble = None
    if not waiting and not applied:
        trouble = (
            "Prometheus has none of our metrics: deploy/prometheus/prometheus.yml lists what it must scrape."
        )
    return _Longer(waiting, applied, trouble)
