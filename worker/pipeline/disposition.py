"""What is published for a delivery once its outcome is known."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import assert_never

from schemas.envelope import HEADERS
from worker.amqp.channel import Message
from worker.amqp.tap import Delivery
from worker.amqp.topology import RETURN, dead_queue, retry_queue
from worker.observability.errors import fingerprint, safe_summary
from worker.pipeline.decode import Item, attempt_of
from worker.pipeline.outcome import Applied, Duplicate, Failed, Invalid, Outcome
from worker.pipeline.retry_schedule import Exhausted, Retry, after_failure

# A header table over 128 KiB makes the broker close the connection; this stays far below.
REASON_LIMIT = 1000


def disposition_of(
    family: str,
    item: Item,
    outcome: Outcome,
    delays: Sequence[timedelta],
    now: datetime,
) -> Message | None:
    """The copy for the next retry queue or for the dead letters; None if the delivery is only acknowledged.

    No other function decides this.
    """
    delivery, attempt = item.delivery, attempt_of(item)
    match outcome:
        case Applied() | Duplicate():
            return None
        case Invalid(reason):
            return _copy(delivery, dead_queue(family), attempt, f"invalid: {reason}", now)
        case Failed(error):
            reason = f"{safe_summary(error)} #{fingerprint(error)}"
            match after_failure(attempt, delays):
                case Retry(delay, next_attempt):
                    return _copy(delivery, retry_queue(family, delay), next_attempt, reason, now)
                case Exhausted():
                    return _copy(delivery, dead_queue(family), attempt, f"exhausted: {reason}", now)
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
