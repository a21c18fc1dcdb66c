"""What is published for a delivery once its outcome is known."""

from datetime import datetime
from typing import assert_never

from schemas.envelope import HEADERS
from worker.amqp.channel import Message
from worker.amqp.queue_set import QueueSet
from worker.amqp.tap import Delivery
from worker.amqp.topology import RETURN
from worker.observability.errors import fingerprint, safe_summary
from worker.pipeline.decode import Item, attempt_of
from worker.pipeline.outcome import Applied, Duplicate, Failed, Invalid, Outcome
from worker.pipeline.retry_schedule import Exhausted, Retry, after_failure

# A header table over 128 KiB makes the broker close the connection; this stays far below.
REASON_LIMIT = 1000


def disposition_of(queues: QueueSet, item: Item, outcome: Outcome, now: datetime) -> Message | None:
    """The copy for the next retry queue or for the dead letters; None if the delivery is only acknowledged.

    No other function decides this.
    """
    delivery, attempt = item.delivery, attempt_of(item)
    match outcome:
        case Applied() | Duplicate():
            return None
        case Invalid(reason):
            return _copy(delivery, queues.dead, attempt, f"invalid: {reason}", now)
        case Failed(error):
            reason = f"{safe_summary(error)} #{fingerprint(error)}"
            match after_failure(attempt, queues.retries):
                case Retry(queue, next_attempt):
                    return _copy(delivery, queue.name, next_attempt, reason, now)
                case Exhausted():
                    return _copy(delivery, queues.dead, attempt, f"exhausted: {reason}", now)
                case unreachable:
                    assert_never(unreachable)
        case unreachable:
            assert_never(unreachable)


def _copy(delivery: Delivery, queue: str, attempt: int, reason: str, now: datetime) -> Message:
    own_headers: dict[str, str | int] = {
        name: value for name in HEADERS if isinstance(value := delivery.headers.get(name), str | int)
    }
    headers = {
        "x-first-failed-at": now.isoformat(),
        **own_headers,
        "x-last-failed-at": now.isoformat(),
        "x-attempt": attempt,
        "x-reason": reason[:REASON_LIMIT],
    }
    return Message(RETURN, queue, delivery.type, headers, delivery.body)
