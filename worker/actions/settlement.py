"""The record and the message that follow from the outcome of an attempt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import assert_never

from schemas.trace_context import passed_headers
from worker.actions.types import Denied, Done, Failed, NotNeeded, Outcome, OutcomeUnknown
from worker.amqp.channel import Message
from worker.amqp.queue_set import QueueSet, RetryQueue
from worker.amqp.tap import Delivery
from worker.pipeline.decode import attempt_in
from worker.pipeline.retry_schedule import Exhausted, Retry, after_failure, copy_after


@dataclass(frozen=True, slots=True)
class Settlement:
    """`log_event` is logged, `state` and `details` are stored, `copy` is published."""

    log_event: str
    state: str
    details: Mapping[str, object]
    copy: Message | None = None

    @property
    def result(self) -> str:
        """The label of the metric."""
        return self.log_event.removeprefix("action.")


def settlement_of(queues: QueueSet, delivery: Delivery, outcome: Outcome) -> Settlement:
    match outcome:
        case Done(details):
            return Settlement("action.done", "done", dict(details))
        case NotNeeded(reason):
            return Settlement("action.not_needed", "done", {"not_needed": reason})
        case Denied(reason):
            return Settlement("action.refused", "refused", {"reason": reason})
        case OutcomeUnknown(reason):
            return Settlement("action.unknown", "unknown", {"reason": reason})
        case Failed(reason, retry_after):
            attempt = attempt_in(delivery)
            match next_attempt(attempt, queues.retries, retry_after):
                case Retry() as step:
                    log_event, state = "action.retried", "due"
                case Exhausted() as step:
                    log_event, state = "action.failed", "failed"
                case unreachable:
                    assert_never(unreachable)
            headers = {
                "x-action-id": str(delivery.headers.get("x-action-id", "")),
                **passed_headers(delivery.headers),
            }
            copy = copy_after(step, queues, delivery, headers, reason)
            return Settlement(log_event, state, {"reason": reason}, copy)
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
