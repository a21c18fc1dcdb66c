"""What a snapshot shows of the change feed and its subscribers over HTTP: no I/O and no clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from worker.amqp.queue_set import QueueSet
from worker.change_feed.backlog import ChangeCounts
from worker.config.subscribers import origin_of
from worker.console.pipeline import RetryStep, added, retry_step, troubles
from worker.console.snapshot import Snapshot
from worker.tools.ops_ports import Process


class SubscriberState(StrEnum):
    """One word per subscriber, the most urgent first."""

    UNKNOWN = "unknown"
    NO_QUEUE = "no queue"
    NO_CONSUMERS = "no consumers"
    CIRCUIT_OPEN = "circuit open"
    HEALTHY = "healthy"


@dataclass(frozen=True, slots=True)
class FamilyChanges:
    """Counts of one family's changes; None stands for a number that could not be read."""

    family: str
    committed: int
    published: int
    waiting: int
    missing: int
    oldest_seconds: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` is of HTTP, or `none` if there was no whole answer. Counted since the consumers started."""

    status: str
    answers: int
    last_at: datetime | None


@dataclass(frozen=True, slots=True)
class Posts:
    """Posts to one subscriber since the consumers started, over the processes that answer.

    `attempts` are `delivered`, those that failed and are retried, and those that became dead letters.
    """

    delivered: int
    attempts: int
    answers: tuple[Answer, ...]
    last: Answer | None
    is_circuit_open: bool


@dataclass(frozen=True, slots=True)
class SubscriberView:
    """None stands for what could not be read; `posts` is None if no process reports them."""

    name: str
    origin: str
    state: SubscriberState
    queued: int | None
    retries: tuple[RetryStep, ...]
    retrying: int | None
    dead: int | None
    """In the queue `.dead` and in the table."""
    consumers: int | None
    posts: Posts | None


@dataclass(frozen=True, slots=True)
class FeedView:
    """`families` is None without the database; `silent` are ops ports that do not answer."""

    at: datetime
    troubles: tuple[str, ...]
    families: tuple[FamilyChanges, ...] | None
    subscribers: tuple[SubscriberView, ...]
    silent: tuple[str, ...]


def feed(snapshot: Snapshot, delays: Sequence[timedelta], configured: Sequence[str]) -> FeedView:
    """The change feed at the time of a snapshot.

    A subscriber that was removed stays in the database; it is left out once its queues are deleted.
    """
    subscribers = [
        _subscriber(name, snapshot, QueueSet.of(origin_of(name), delays)) for name in snapshot.subscribers
    ]
    return FeedView(
        at=snapshot.at,
        troubles=tuple(troubles(snapshot)),
        families=None if snapshot.stored is None else tuple(map(_family, snapshot.stored.changes)),
        subscribers=tuple(
            one
            for one in subscribers
            if one.state is not SubscriberState.NO_QUEUE or one.name in configured or one.posts is not None
        ),
        silent=tuple(process.address for process in snapshot.silent),
    )


def _family(counts: ChangeCounts) -> FamilyChanges:
    return FamilyChanges(
        counts.family,
        counts.committed,
        counts.published,
        counts.waiting,
        counts.missing,
        counts.oldest_seconds,
    )


def _subscriber(name: str, snapshot: Snapshot, queues: QueueSet) -> SubscriberView:
    retries = tuple(retry_step(retry, snapshot) for retry in queues.retries)
    posts = _posts(name, snapshot.answering)
    return SubscriberView(
        name=name,
        origin=queues.origin,
        state=_state(queues.main, snapshot, posts),
        queued=snapshot.ready(queues.main),
        retries=retries,
        retrying=added([retry.events for retry in retries]),
        dead=snapshot.dead(queues.origin, queues.dead),
        consumers=snapshot.consumers(queues.main),
        posts=posts,
    )


def _state(queue: str, snapshot: Snapshot, posts: Posts | None) -> SubscriberState:
    if snapshot.queues is None or queue not in snapshot.queues:
        return SubscriberState.UNKNOWN
    depth = snapshot.queues[queue]
    if depth is None:
        return SubscriberState.NO_QUEUE
    if depth.consumers == 0:
        return SubscriberState.NO_CONSUMERS
    if posts is None:
        return SubscriberState.UNKNOWN
    return SubscriberState.CIRCUIT_OPEN if posts.is_circuit_open else SubscriberState.HEALTHY


def _posts(name: str, processes: Sequence[Process]) -> Posts | None:
    """One process delivers at a time: the circuit breaker that counts is that of the newest answer."""
    reporting = [
        one for one in processes if one.total("stockhook_webhooks_total", subscriber=name) is not None
    ]
    if not reporting:
        return None
    answers: dict[str, Answer] = {}
    newest, is_circuit_open = 0.0, False
    for process in reporting:
        latest = 0.0
        for status, count in _by_status("stockhook_webhook_answers_total", name, process).items():
            at = _by_status("stockhook_webhook_answered_timestamp_seconds", name, process).get(status)
            earlier = answers.get(status, Answer(status, 0, None))
            instants = [earlier.last_at, None if at is None else datetime.fromtimestamp(at, UTC)]
            answers[status] = Answer(
                status,
                earlier.answers + int(count),
                max((instant for instant in instants if instant is not None), default=None),
            )
            latest = max(latest, at or 0.0)
        if latest >= newest:
            newest = latest
            is_circuit_open = bool(process.value("stockhook_webhook_circuit_open", subscriber=name))
    return Posts(
        delivered=_total(name, reporting, result="delivered"),
        attempts=_total(name, reporting),
        answers=tuple(answers[status] for status in sorted(answers)),
        last=max(
            (one for one in answers.values() if one.last_at is not None),
            key=lambda one: one.last_at or datetime.min.replace(tzinfo=UTC),
            default=None,
        ),
        is_circuit_open=is_circuit_open,
    )


def _total(name: str, processes: Sequence[Process], **labels: str) -> int:
    return int(
        sum(one.total("stockhook_webhooks_total", subscriber=name, **labels) or 0 for one in processes)
    )


def _by_status(series: str, name: str, process: Process) -> dict[str, float]:
    values = {}
    for (of, labels), value in process.series.items():
        given = dict(labels)
        if of == series and given.get("subscriber") == name:
            values[given["status"]] = value
    return values
