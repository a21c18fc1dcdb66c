"""The record and the message that follow from the outcome of an attempt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import assert_never

from worker.actions.types import Denied, Done, Failed, NotNeeded, Outcome, OutcomeUnknown
from worker.amqp.channel import Message
from worker.amqp.queue_set import QueueSet, RetryQueue
from worker.amqp.tap import Delivery
from worker.amqp.topology import RETURN
from worker.pipeline.decode import attempt_in
from worker.pipeline.disposition import REASON_LIMIT
from worker.pipeline.retry_schedule import Exhausted, Retry, after_failure


@dataclass(frozen=True, slots=True)
class Disposition:
    """`result` is a label of the metric, `state` and `details` are stored, `copy` is published."""

    result: str
    state: str
    details: Mapping[str, object]
    copy: Message | None = None


def disposition_of(queues: QueueSet, delivery: Delivery, outcome: Outcome) -> Disposition:
    match outcome:
        case Done(details):
            return Disposition("done", "done", dict(details))
        case NotNeeded(reason):
            return Disposition("not_needed", "done", {"not_needed": reason})
        case Denied(reason):
            return Disposition("refused", "refused", {"reason": reason})
        case OutcomeUnknown(reason):
            return Disposition("unknown", "unknown", {"reason": reason})
        case Failed(reason, retry_after):
            attempt = attempt_in(delivery)
            match next_attempt(attempt, queues.retries, retry_after):
                case Retry(queue, number):
                    copy = _copy(delivery, queue.name, number, reason)
                    return Disposition("retried", "due", {"reason": reason}, copy)
                case Exhausted():
                    copy = _copy(delivery, queues.dead, attempt, reason)
                    return Disposition("failed", "failed", {"reason": reason}, copy)
                case unreachable:
                    assert_never(unreachable)
        case unreachable:
            assert_never(unreachable)


def next_attempt(
    attempt: int, retries: Sequence[RetryQueue], retry_after: timedelta | None
) -> Retry | Exhausted:
    """The next delay of the retry schedule. If the marketplace requests a longer one: the first long enough.

    If none is long enough, the longest.
    """
    step = after_failure(attempt, retries)
    if retry_after is None or isinstance(step, Exhausted):
        return step
    long_enough = (queue for queue in retries if queue.delay >= max(step.queue.delay, retry_after))
    return Retry(next(long_enough, retries[-1]), step.attempt)


def _copy(delivery: Delivery, queue: str, attempt: int, reason: str) -> Message:
    headers: dict[str, str | int] = {
        "x-action-id": str(delivery.headers.get("x-action-id", "")),
        "x-attempt": attempt,
        "x-reason": reason[:REASON_LIMIT],
    }
    return Message(RETURN, queue, delivery.type, headers, delivery.body)
