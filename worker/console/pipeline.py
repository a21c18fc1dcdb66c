"""What the screens show of the pipeline, from snapshots alone: no I/O and no clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from consumers.registry import FAMILIES
from worker.amqp.queue_set import QueueSet, RetryQueue
from worker.amqp.topology import QUARANTINE
from worker.console.charts import Point
from worker.console.snapshot import Snapshot
from worker.dead_letters.message import QUARANTINE_ORIGIN
from worker.tools.audit import Audit, size
from worker.tools.ops_ports import NoAnswer, Process

# Events that wait for longer than this make a family "behind".
BEHIND_SECONDS = 30.0

# Rates are averages over this time at most, so that they do not jump.
RATE_WINDOW = timedelta(seconds=10)


class State(StrEnum):
    """One word per family, the most urgent first."""

    UNKNOWN = "unknown"
    PAUSED = "paused"
    WAITING = "waiting for database"
    CIRCUIT_OPEN = "circuit open"
    NO_CONSUMERS = "no consumers"
    BEHIND = "behind"
    HEALTHY = "healthy"


@dataclass(frozen=True, slots=True)
class RetryStep:
    """One retry queue: its delay as text, the number of events in it, and when the last of them is due."""

    delay: str
    events: int | None
    due_by: datetime | None


@dataclass(frozen=True, slots=True)
class Losses:
    """accepted = applied + duplicates + retrying + dead + waiting, by sequence numbers.

    `missing` is the part of them that is nowhere; None until two audits have agreed on it.
    """

    accepted: int = 0
    applied: int = 0
    duplicates: int = 0
    retrying: int = 0
    dead: int = 0
    waiting: int = 0
    missing: int | None = None


@dataclass(frozen=True, slots=True)
class FamilyView:
    """None stands for a number that could not be read."""

    name: str
    state: State
    queued: int | None
    in_flight: int | None
    consumers: int | None
    oldest_seconds: float | None
    applied_per_second: float | None
    retries: tuple[RetryStep, ...]
    dead: int | None
    """In the queue `.dead` and in the table."""
    losses: Losses | None
    pause: str | None
    """Which user paused it, since when, and why."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Of all families; `dead` includes what is in quarantine."""

    queued: int | None
    in_flight: int | None
    applied_per_second: float | None
    retrying: int | None
    dead: int | None
    quarantined: int | None


@dataclass(frozen=True, slots=True)
class IngestView:
    """The ingest processes together; None if none of them answers."""

    processes: int
    received_per_second: float | None
    spool_events: int | None
    spool_bytes: int | None
    spool_limit_bytes: int | None
    spool_oldest_seconds: float | None


@dataclass(frozen=True, slots=True)
class PipelineView:
    at: datetime
    troubles: tuple[str, ...]
    ingest: IngestView | None
    families: tuple[FamilyView, ...]
    totals: Totals
    losses: Losses | None
    audited_at: datetime | None


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known beside the newest snapshot: the snapshots before it, and the last two audits."""

    recent: Sequence[Snapshot] = ()
    last_empty: Mapping[str, datetime] = field(default_factory=dict)
    audits: Sequence[tuple[datetime, Audit]] = ()


def pipeline(snapshot: Snapshot, observed: Observed, delays: Sequence[timedelta]) -> PipelineView:
    """The whole pipeline at the time of a snapshot."""
    missing = _missing(observed.audits)
    families = tuple(_family(name, snapshot, observed, delays, missing) for name in FAMILIES)
    known = [family.losses for family in families if family.losses is not None]
    return PipelineView(
        at=snapshot.at,
        troubles=tuple(troubles(snapshot)),
        ingest=_ingest(snapshot, observed),
        families=families,
        totals=_totals(families, snapshot.dead(QUARANTINE_ORIGIN, QUARANTINE)),
        losses=_total(known) if snapshot.stored is not None else None,
        audited_at=observed.audits[-1][0] if observed.audits else None,
    )


def _family(
    name: str,
    snapshot: Snapshot,
    observed: Observed,
    delays: Sequence[timedelta],
    missing: Mapping[str, int] | None,
) -> FamilyView:
    queues = QueueSet.of(name, delays)
    queued = snapshot.ready(queues.main)
    oldest = _oldest(name, queued, snapshot, observed)
    return FamilyView(
        name=name,
        state=_state(name, snapshot, queues, oldest),
        queued=queued,
        in_flight=_whole(_sum(snapshot, "stockhook_in_flight", family=name)),
        consumers=snapshot.consumers(queues.main),
        oldest_seconds=oldest,
        applied_per_second=_applied_rate(name, snapshot, _before(snapshot, observed.recent)),
        retries=tuple(retry_step(retry, snapshot) for retry in queues.retries),
        dead=snapshot.dead(name, queues.dead),
        losses=_losses(name, snapshot, missing),
        pause=_pause(name, snapshot),
    )


def retry_step(retry: RetryQueue, snapshot: Snapshot) -> RetryStep:
    events = snapshot.ready(retry.name)
    return RetryStep(retry.step, events, snapshot.at + retry.delay if events else None)


def _totals(families: Sequence[FamilyView], quarantined: int | None) -> Totals:
    retrying = [step.events for family in families for step in family.retries]
    return Totals(
        queued=added([family.queued for family in families]),
        in_flight=added([family.in_flight for family in families]),
        applied_per_second=_added_rates([family.applied_per_second for family in families]),
        retrying=added(retrying),
        dead=added([quarantined, *(family.dead for family in families)]),
        quarantined=quarantined,
    )


def added(values: Sequence[int | None]) -> int | None:
    """None if one is not known: a part is not the whole."""
    return None if None in values else sum(value or 0 for value in values)


def _added_rates(values: Sequence[float | None]) -> float | None:
    return None if None in values else sum(value or 0.0 for value in values)


def _state(name: str, snapshot: Snapshot, queues: QueueSet, oldest: float | None) -> State:
    consumers = snapshot.consumers(queues.main)
    if consumers is None:
        return State.UNKNOWN
    if _pause(name, snapshot) is not None:
        return State.PAUSED
    if _sum(snapshot, "stockhook_waiting_for_database", family=name):
        return State.WAITING
    if _sum(snapshot, "stockhook_circuit_open", family=name):
        return State.CIRCUIT_OPEN
    if consumers == 0:
        return State.NO_CONSUMERS
    if oldest is not None and oldest > BEHIND_SECONDS:
        return State.BEHIND
    return State.HEALTHY


def _pause(name: str, snapshot: Snapshot) -> str | None:
    pause = snapshot.stored.pauses.get(name) if snapshot.stored is not None else None
    return None if pause is None else str(pause)


def _oldest(name: str, queued: int | None, snapshot: Snapshot, observed: Observed) -> float | None:
    """The maximum age of the oldest event in the queue, which is first in, first out.

    It was received after the last logged one, and after the queue was last seen empty.
    """
    if not queued:
        return None
    bounds = [
        snapshot.stored.last_logged.get(name) if snapshot.stored is not None else None,
        observed.last_empty.get(name),
    ]
    known = [instant for instant in bounds if instant is not None]
    return max(0.0, (snapshot.at - max(known)).total_seconds()) if known else None


def _losses(name: str, snapshot: Snapshot, missing: Mapping[str, int] | None) -> Losses | None:
    if snapshot.stored is None:
        return None
    ours = [account for account in snapshot.stored.accounts if account.family == name]
    accepted = sum(account.accepted for account in ours)
    applied = sum(account.applied for account in ours)
    dead = sum(account.dead for account in ours)
    retrying = sum(size(account.retrying) for account in ours)
    waiting = sum(size(account.unaccounted) for account in ours)
    return Losses(
        accepted=accepted,
        applied=applied,
        # By number: the accounts count each delivery of the same event.
        duplicates=max(0, accepted - applied - retrying - dead - waiting),
        retrying=retrying,
        dead=dead,
        waiting=waiting,
        missing=None if missing is None else missing.get(name, 0),
    )


def _total(parts: Sequence[Losses]) -> Losses:
    missing = [part.missing for part in parts]
    return Losses(
        accepted=sum(part.accepted for part in parts),
        applied=sum(part.applied for part in parts),
        duplicates=sum(part.duplicates for part in parts),
        retrying=sum(part.retrying for part in parts),
        dead=sum(part.dead for part in parts),
        waiting=sum(part.waiting for part in parts),
        missing=None if None in missing else sum(number or 0 for number in missing),
    )


def _missing(audits: Sequence[tuple[datetime, Audit]]) -> Mapping[str, int] | None:
    """How many events each family misses in both of the last two audits: those in flight were in one."""
    if len(audits) < 2:
        return None
    (_, earlier), (_, later) = audits[-2:]
    return {
        family: sum(
            max(0, min(last, other_last) - max(first, other_first) + 1)
            for source, first, last in ranges
            for other_source, other_first, other_last in earlier.missing.get(family, ())
            if source == other_source
        )
        for family, ranges in later.missing.items()
    }


def _ingest(snapshot: Snapshot, observed: Observed) -> IngestView | None:
    ingests = [process for process in snapshot.answering if _is_ingest(process)]
    if not ingests:
        return None
    ages = [process.value("stockhook_spool_age_seconds") for process in ingests]
    return IngestView(
        processes=len(ingests),
        received_per_second=_received_rate(snapshot, _before(snapshot, observed.recent)),
        spool_events=_whole(_sum(snapshot, "stockhook_spool_events")),
        spool_bytes=_whole(_sum(snapshot, "stockhook_spool_bytes")),
        spool_limit_bytes=_whole(_sum(snapshot, "stockhook_spool_limit_bytes")),
        spool_oldest_seconds=max((age for age in ages if age), default=None),
    )


def troubles(snapshot: Snapshot) -> list[str]:
    """What could not be read, and what is not ready, in sentences."""
    troubles = []
    if snapshot.broker_trouble is not None:
        troubles.append(f"The broker cannot be read: {snapshot.broker_trouble}")
    if snapshot.database_trouble is not None:
        troubles.append(f"The database cannot be read: {snapshot.database_trouble}")
    for process in snapshot.processes:
        if isinstance(process, NoAnswer):
            troubles.append(f"No answer from {process.address}: {process.reason}")
        elif not process.is_ready:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in process.problems.items())
            troubles.append(f"{process.address} is not ready: {reasons}")
    return troubles


def point(name: str, snapshot: Snapshot, earlier: Snapshot | None) -> Point:
    """One point of the history: the rate is the average since the earlier snapshot."""
    return Point(
        snapshot.at,
        snapshot.ready(QueueSet.of(name, ()).main),
        None if earlier is None else _applied_rate(name, snapshot, earlier),
    )


def _before(snapshot: Snapshot, recent: Sequence[Snapshot]) -> Snapshot | None:
    """The earliest snapshot within the window of rates."""
    window = [one for one in recent if timedelta(0) < snapshot.at - one.at <= 2 * RATE_WINDOW]
    return window[0] if window else None


def _applied_rate(name: str, snapshot: Snapshot, earlier: Snapshot | None) -> float | None:
    if earlier is None or snapshot.stored is None or earlier.stored is None:
        return None
    now, then = (
        sum(account.applied for account in stored.accounts if account.family == name)
        for stored in (snapshot.stored, earlier.stored)
    )
    return max(0, now - then) / (snapshot.at - earlier.at).total_seconds()


def _received_rate(snapshot: Snapshot, earlier: Snapshot | None) -> float | None:
    """Over the processes that answered both times. A counter that fell belongs to a new process."""
    if earlier is None:
        return None
    before = {process.address: process for process in earlier.answering}
    received = 0.0
    for process in snapshot.answering:
        then = before.get(process.address)
        counts = [one.total("stockhook_received_total") for one in (then, process) if one is not None]
        if len(counts) == 2 and counts[0] is not None and counts[1] is not None:
            received += counts[1] - counts[0] if counts[1] >= counts[0] else counts[1]
    return received / (snapshot.at - earlier.at).total_seconds()


def event_age_quantiles(
    name: str, snapshot: Snapshot, earlier: Snapshot | None, quantiles: Sequence[float]
) -> tuple[float | None, ...]:
    """Upper bounds of the age of events at their commit, between two snapshots, in seconds."""
    counts = _buckets(name, snapshot)
    for bound, count in _buckets(name, earlier).items() if earlier is not None else ():
        counts[bound] = max(0.0, counts.get(bound, 0.0) - count)
    bounds = sorted(counts)
    total = counts[bounds[-1]] if bounds else 0.0
    return tuple(
        next((bound for bound in bounds if counts[bound] >= quantile * total), None) if total else None
        for quantile in quantiles
    )


def _buckets(name: str, snapshot: Snapshot) -> dict[float, float]:
    counts: dict[float, float] = {}
    for process in snapshot.answering:
        for (series, labels), value in process.series.items():
            given = dict(labels)
            if series == "stockhook_event_age_seconds_bucket" and given.get("family") == name:
                bound = float(given["le"])
                counts[bound] = counts.get(bound, 0.0) + value
    return counts


def _is_ingest(process: Process) -> bool:
    return process.value("stockhook_spool_open") is not None


def _sum(snapshot: Snapshot, name: str, **labels: str) -> float | None:
    """Over all processes that export it; None if none does."""
    values = [process.total(name, **labels) for process in snapshot.answering]
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
