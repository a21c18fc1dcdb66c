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


def log_batch(
    family: str, items: Sequence[Item], report: Report, seconds: float, exemplar: dict[str, str] | None
) -> None:
    """Write one log line and one set of metrics per batch."""
    kinds = Counter(type(outcome) for outcome in report.outcomes)
    received = [item.candidate.envelope.received_at for item in items if isinstance(item, Decoded)]
    metrics.APPLIED.labels(family).inc(kinds[Applied])
    metrics.DUPLICATES.labels(family).inc(kinds[Duplicate])
    metrics.STALE.labels(family).inc(report.stale)
    metrics.FINDINGS.labels(family).inc(report.findings)
    metrics.IMPLAUSIBLE_TIMESTAMPS.labels(family).inc(report.implausible)
    metrics.BATCH_EVENTS.labels(family).observe(len(items))
    metrics.BATCH_SECONDS.labels(family).observe(seconds, exemplar)
    if received:
        age = (datetime.now(UTC) - min(received)).total_seconds()
        metrics.EVENT_AGE_SECONDS.labels(family).observe(age, exemplar)
    log.info(
        "batch.settled",
        family=family,
        events=len(items),
        applied=kinds[Applied],
        duplicates=kinds[Duplicate],
        stale=report.stale,
        findings=report.findings,
        failed=kinds[Failed],
        invalid=kinds[Invalid],
        milliseconds=round(seconds * 1000, 1),
    )
