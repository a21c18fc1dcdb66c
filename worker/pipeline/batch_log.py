"""The log lines and metrics of a batch."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import structlog

from schemas.trace_context import TraceContext
from worker.amqp.channel import Message
from worker.observability import metrics
from worker.pipeline.decode import Decoded, Item, attempt_of
from worker.pipeline.outcome import Applied, Duplicate, Failed, Invalid, Report

log = structlog.get_logger(__name__)


def log_failure(family: str, item: Item, copy: Message, context: TraceContext | None) -> None:
    # Of the event, while the batch is the current span.
    ids = {} if context is None else context.ids
    log.warning(
        "delivery.failed",
        family=family,
        type=copy.type,
        event_id=copy.headers.get("x-event-id"),
        attempt=attempt_of(item),
        to=copy.routing_key,
        reason=copy.headers["x-reason"],
        **ids,
    )


class BatchLog:
    """Writes one log line and one set of metrics per batch of a family."""

    def __init__(self, family: str) -> None:
        self._family = family
        # To look a metric up by its labels takes longer than to change it.
        self._applied = metrics.APPLIED.labels(family)
        self._duplicates = metrics.DUPLICATES.labels(family)
        self._stale = metrics.STALE.labels(family)
        self._findings = metrics.FINDINGS.labels(family)
        self._implausible = metrics.IMPLAUSIBLE_TIMESTAMPS.labels(family)
        self._events = metrics.BATCH_EVENTS.labels(family)
        self._seconds = metrics.BATCH_SECONDS.labels(family)
        self._age_seconds = metrics.EVENT_AGE_SECONDS.labels(family)

    def write(
        self, items: Sequence[Item], report: Report, seconds: float, exemplar: dict[str, str] | None
    ) -> None:
        kinds = Counter(type(outcome) for outcome in report.outcomes)
        for counter, count in (
            (self._applied, kinds[Applied]),
            (self._duplicates, kinds[Duplicate]),
            (self._stale, report.stale),
            (self._findings, report.findings),
            (self._implausible, report.implausible),
        ):
            if count:
                counter.inc(count)
        self._events.observe(len(items))
        self._seconds.observe(seconds, exemplar)
        received = [item.candidate.envelope.received_at for item in items if isinstance(item, Decoded)]
        if received:
            age = (datetime.now(UTC) - min(received)).total_seconds()
            self._age_seconds.observe(age, exemplar)
        log.info(
            "batch.settled",
            family=self._family,
            events=len(items),
            applied=kinds[Applied],
            duplicates=kinds[Duplicate],
            stale=report.stale,
            findings=report.findings,
            failed=kinds[Failed],
            invalid=kinds[Invalid],
            milliseconds=round(seconds * 1000, 1),
        )
