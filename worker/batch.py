"""One batch from claim to commit, and what becomes of each of its deliveries.

decode ─> claim ─> load ─> decide ─> save ─> commit ─> settle: publish copies, then ack
          └───────── one transaction ─────────┘
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never

from consumers.family import Effects, Event, WriteConflict, project
from consumers.registry import AnyFamily
from schemas.envelope import HEADERS, Envelope, InvalidEnvelope
from schemas.events import InvalidEvent, Payload, parse
from worker import event_log
from worker.broker import Delivery, Message
from worker.database import Database, DatabaseUnavailable, TransactionConflict
from worker.event_log import Candidate
from worker.failure import describe, fingerprint
from worker.retry import Exhausted, Retry, after_failure
from worker.topology import RETURN, dead_queue, retry_queue

# A header table over 128 KiB makes the broker close the connection; this stays far below.
REASON_LIMIT = 1000

NO_EFFECTS = Effects(0, frozenset(), frozenset(), ())

# How often a transaction is repeated at once after a conflict with another one.
CONFLICT_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Decoded:
    """A delivery that holds a valid event."""

    delivery: Delivery
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Undecodable:
    """A delivery that breaks its schema. `reason` names field and rule, no value."""

    delivery: Delivery
    reason: str


@dataclass(frozen=True, slots=True)
class Applied:
    """Its effect is committed."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """It had been applied before."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """Waiting cannot mend it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """This attempt failed, while the database is well."""

    error: Exception


Outcome = Applied | Duplicate | Invalid | Failed


@dataclass(frozen=True, slots=True)
class Report:
    """What a batch came to: an outcome for each delivery, in their order."""

    outcomes: tuple[Outcome, ...]
    stale: int = 0
    findings: int = 0


def decode(family: AnyFamily, delivery: Delivery) -> Decoded | Undecodable:
    """Read headers and body; what the family does not know is undecodable."""
    try:
        envelope = Envelope.from_headers(delivery.headers)
        payload = parse(envelope.provider, delivery.body)
    except (InvalidEnvelope, InvalidEvent) as error:
        return Undecodable(delivery, str(error))
    if not isinstance(payload, family.payloads):
        return Undecodable(delivery, f"event: not one of the family {family.name}")
    return Decoded(delivery, Candidate(envelope, payload, delivery.body))


async def handle(family: AnyFamily, database: Database, batch: Sequence[Decoded | Undecodable]) -> Report:
    """Apply what can be applied; the guilty ones are told apart from their neighbours.

    Raises:
        DatabaseUnavailable: Nothing is known of the batch; handle it again, whole.
    """
    candidates = [item.candidate for item in batch if isinstance(item, Decoded)]
    applied = await _apply(family, database, candidates) if candidates else Report(())
    outcomes = iter(applied.outcomes)
    return replace(
        applied,
        outcomes=tuple(
            next(outcomes) if isinstance(item, Decoded) else Invalid(item.reason) for item in batch
        ),
    )


async def _apply(family: AnyFamily, database: Database, candidates: Sequence[Candidate]) -> Report:
    """All in one transaction; where that fails, each in one of its own."""
    try:
        return await _transact_repeatedly(family, database, candidates)
    except DatabaseUnavailable:
        raise
    except Exception as error:
        if len(candidates) == 1:
            return Report((Failed(error),))
    reports = [await _apply(family, database, [candidate]) for candidate in candidates]
    return Report(
        outcomes=tuple(outcome for report in reports for outcome in report.outcomes),
        stale=sum(report.stale for report in reports),
        findings=sum(report.findings for report in reports),
    )


async def _transact_repeatedly(
    family: AnyFamily, database: Database, candidates: Sequence[Candidate]
) -> Report:
    """A conflict with another transaction is over once that one has committed: again at once."""
    for _ in range(CONFLICT_REPEATS):
        with suppress(TransactionConflict, WriteConflict):
            return await _transact(family, database, candidates)
    return await _transact(family, database, candidates)


async def _transact(family: AnyFamily, database: Database, candidates: Sequence[Candidate]) -> Report:
    async with database.transaction() as connection:
        claimed = await event_log.claim(connection, family.name, candidates)
        events = [_event(candidates[position]) for position in sorted(claimed.positions)]
        effects = await project(family, connection, events) if events else NO_EFFECTS
        await event_log.note(connection, family.name, effects)
        await event_log.note_reuse(connection, claimed.findings)
    outcomes = (
        Applied() if position in claimed.positions else Duplicate() for position in range(len(candidates))
    )
    findings = len(effects.findings) + len(claimed.findings)
    return Report(tuple(outcomes), stale=effects.stale, findings=findings)


def _event(candidate: Candidate) -> Event[Payload]:
    envelope = candidate.envelope
    return Event(envelope.event_id, envelope.received_at, candidate.payload)


def copy_to_publish(
    family: str,
    item: Decoded | Undecodable,
    outcome: Outcome,
    delays: Sequence[timedelta],
    now: datetime,
) -> Message | None:
    """Where a delivery goes on, if it does not end here. Pure, and the one place that says so."""
    attempt = attempt_of(item)
    match outcome:
        case Applied() | Duplicate():
            return None
        case Invalid(reason):
            return _copy(item, dead_queue(family), attempt, f"invalid: {reason}", now)
        case Failed(error):
            reason = f"{describe(error)} #{fingerprint(error)}"
            match after_failure(attempt, delays):
                case Retry(delay, next_attempt):
                    return _copy(item, retry_queue(family, delay), next_attempt, reason, now)
                case Exhausted():
                    return _copy(item, dead_queue(family), attempt, f"exhausted: {reason}", now)
                case unreachable:
                    assert_never(unreachable)
        case unreachable:
            assert_never(unreachable)


def attempt_of(item: Decoded | Undecodable) -> int:
    """The number of the attempt that this delivery was, from 1."""
    if isinstance(item, Decoded):
        return item.candidate.envelope.attempt
    told = item.delivery.headers.get("x-attempt")
    return told if isinstance(told, int) else 1


def _copy(item: Decoded | Undecodable, queue: str, attempt: int, reason: str, now: datetime) -> Message:
    """The same body with our headers alone: what the broker added (`x-death` and the like) ends here."""
    delivery = item.delivery
    ours = {name: value for name in HEADERS if isinstance(value := delivery.headers.get(name), str | int)}
    headers = {
        "x-first-failed-at": now.isoformat(),
        **ours,
        "x-last-failed-at": now.isoformat(),
        "x-attempt": attempt,
        "x-reason": reason[:REASON_LIMIT],
    }
    return Message(RETURN, queue, delivery.type, headers, delivery.body)
