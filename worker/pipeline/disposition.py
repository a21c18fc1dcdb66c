"""What is published for a delivery once its outcome is known."""

from datetime import datetime
from typing import assert_never

from schemas.envelope import HEADERS
from schemas.trace_context import TRACE_HEADERS, passed_headers
from worker.amqp.channel import Message
from worker.amqp.queue_set import QueueSet
from worker.observability.errors import fingerprint, safe_summary
from worker.pipeline.decode import Item, attempt_of
from worker.pipeline.outcome import Applied, Duplicate, Failed, Invalid, Outcome
from worker.pipeline.retry_schedule import Exhausted, Retry, after_failure, copy_after, failure_times


def disposition_of(queues: QueueSet, item: Item, outcome: Outcome, now: datetime) -> Message | None:
    """The copy for the next retry queue or for the dead letters; None if the delivery is only acknowledged.

    No other function decides this.
    """
    delivery, attempt = item.delivery, attempt_of(item)
    match outcome:
        case Applied() | Duplicate():
            return None
        case Invalid(reason):
            step: Retry | Exhausted = Exhausted(attempt)
            text = f"invalid: {reason}"
        case Failed(error):
            step = after_failure(attempt, queues.retries)
            text = f"{safe_summary(error)} #{fingerprint(error)}"
            if isinstance(step, Exhausted):
                text = f"exhausted: {text}"
        case unreachable:
            assert_never(unreachable)
    own_headers: dict[str, str | int] = {
        name: value
        for name in HEADERS
        if name not in TRACE_HEADERS and isinstance(value := delivery.headers.get(name), str | int)
    }
    headers = {**own_headers, **passed_headers(delivery.headers), **failure_times(delivery, now)}
    return copy_after(step, queues, delivery, headers, text)
