"""The retry schedule: what follows a failed attempt, and the copy that is published for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from worker.amqp.channel import Message
from worker.amqp.codec import JSON
from worker.amqp.queue_set import QueueSet, RetryQueue
from worker.amqp.tap import Delivery
from worker.amqp.topology import RETURN

# A header table over 128 KiB makes the broker close the connection; this stays far below.
REASON_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Retry:
    """Wait in this retry queue; `attempt` is the number of the next attempt."""

    queue: RetryQueue
    attempt: int


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The message becomes a dead letter; `attempt` is the number of its last attempt."""

    attempt: int


def after_failure(attempt: int, retries: Sequence[RetryQueue]) -> Retry | Exhausted:
    """With the delays 7 s, 35 s, 175 s:

    attempt that failed | next
    1                   | after 7 s
    2                   | after 35 s
    3                   | after 175 s
    4                   | exhausted
    """
    if attempt <= len(retries):
        return Retry(retries[attempt - 1], attempt + 1)
    return Exhausted(attempt)


def copy_after(
    step: Retry | Exhausted,
    queues: QueueSet,
    delivery: Delivery,
    headers: Mapping[str, str | int],
    reason: str,
    content_type: str = JSON,
) -> Message:
    """The copy of a delivery for its next retry queue, or for the dead letters.

    `headers` are those that it has beside attempt and reason. No header of the broker is ever sent on.
    """
    match step:
        case Retry(queue):
            routing_key = queue.name
        case Exhausted():
            routing_key = queues.dead
        case unreachable:
            assert_never(unreachable)
    all_headers = {
        **headers,
        "x-attempt": step.attempt,
        "x-reason": reason[:REASON_LIMIT],
    }
    return Message(RETURN, routing_key, delivery.type, all_headers, delivery.body, content_type)


def failure_times(delivery: Delivery, now: datetime) -> dict[str, str | int]:
    """The headers that say when a message failed for the first time, and for the last time."""
    first = delivery.headers.get("x-first-failed-at")
    return {
        "x-first-failed-at": first if isinstance(first, str | int) else now.isoformat(),
        "x-last-failed-at": now.isoformat(),
    }
