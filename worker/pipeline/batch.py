"""One batch from claim to commit, and what becomes of each of its deliveries.

decode ─> claim ─> load ─> decide ─> save ─> commit ─> settle: publish copies, then ack
          └───────── one transaction ─────────┘
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import assert_never
from uuid import UUID

from consumers.family import (
    IMPLAUSIBLE_TIMESTAMP,
    Effects,
    Event,
    Finding,
    WriteConflict,
    apply_events,
    correct,
)
from consumers.registry import AnyFamily
from schemas import identity
from schemas.clock import TOLERANCE
from schemas.envelope import HEADERS, Envelope, InvalidEnvelope, Provenance
from schemas.event_schema import Payload
from schemas.events import OBSERVATIONS, InvalidEvent, parse
from worker.amqp.channel import Message
from worker.amqp.tap import Delivery
from worker.amqp.topology import (
    RETURN,
    dead_queue,
    family_queue,
    retry_queue,
)
from worker.observability.errors import fingerprint, safe_summary
from worker.observability.failpoints import failpoint
from worker.outbox import actions as table
from worker.outbox import changes as outbox
from worker.pipeline.retry_schedule import Exhausted, Retry, after_failure
from worker.postgres import event_log, ledger
from worker.postgres.event_log import Candidate
from worker.postgres.ledger import Disposition
from worker.postgres.pool import Database, DatabaseUnavailable, TransactionConflict

# A header table over 128 KiB makes the broker close the connection; this stays far below.
REASON_LIMIT = 1000

NO_EFFECTS = Effects(0, frozenset(), frozenset(), ())

# Far above what a batch takes, far below the broker's consumer timeout; more than the time in which a
# database that hangs is noticed.
HANDLE_SECONDS = 30.0

# How often a transaction is repeated at once after a conflict with another one.
CONFLICT_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Decoded:
    """A delivery that holds a valid event."""

    delivery: Delivery
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class InvalidDelivery:
    """A delivery that breaks its schema. `reason` names field and rule, no value."""

    delivery: Delivery
    reason: str


@dataclass(frozen=True, slots=True)
class Suspect:
    """A delivery that came again, not looked into: reading it may be what killed its consumer."""

    delivery: Delivery


Item = Decoded | InvalidDelivery
Arrived = Item | Suspect


class BatchFailed(Exception):
    """The batch cannot be applied as a whole; which of its events is guilty is not known."""


@dataclass(frozen=True, slots=True)
class Applied:
    """Its effect is committed."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """It had been applied before."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """Waiting cannot repair it."""

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
    implausible: int = 0


def decode(family: AnyFamily, delivery: Delivery) -> Decoded | InvalidDelivery:
    """Read headers and body; what the family does not know is undecodable."""
    try:
        envelope = Envelope.from_headers(delivery.headers)
        payload = parse(envelope.provider, delivery.body)
    except (InvalidEnvelope, InvalidEvent) as error:
        return InvalidDelivery(delivery, str(error))
    if type(payload) not in family.payloads:
        return InvalidDelivery(delivery, f"event: not one of the family {family.name}")
    if isinstance(payload, OBSERVATIONS) and envelope.provenance is not Provenance.OBSERVATION:
        return InvalidDelivery(delivery, "event: an observation that a sender sent")
    return Decoded(delivery, Candidate(envelope, payload, delivery.body))


async def handle(
    family: AnyFamily,
    database: Database,
    batch: Sequence[Item],
    *,
    tells: bool = False,
    asks: Collection[str] = (),
    tolerance: timedelta = TOLERANCE,
) -> Report:
    """Apply a batch in one transaction; with `tells`, what it changes is written down to be published.

    So are the actions that it calls for, if they are of the kinds `asks`.

    Raises:
        BatchFailed: Of several events; handle fewer at a time. A single one is reported as Failed.
        DatabaseUnavailable: Nothing is known of the batch; handle it again, whole.
    """
    candidates = [item.candidate for item in batch if isinstance(item, Decoded)]
    transact = partial(_transact, family, database, candidates, tells, asks, tolerance)
    applied = await _apply(transact, len(candidates)) if candidates else Report(())
    outcomes = iter(applied.outcomes)
    return replace(
        applied,
        outcomes=tuple(
            next(outcomes) if isinstance(item, Decoded) else Invalid(item.reason) for item in batch
        ),
    )


async def _apply(transact: Callable[[], Awaitable[Report]], events: int) -> Report:
    try:
        return await _repeatedly(transact)
    except DatabaseUnavailable:
        raise
    except Exception as error:
        if events > 1:
            raise BatchFailed from error
        return Report((Failed(error),))


async def _repeatedly(transact: Callable[[], Awaitable[Report]]) -> Report:
    """A conflict with another transaction is over once that one has committed: again at once."""
    for _ in range(CONFLICT_REPEATS):
        with suppress(TransactionConflict, WriteConflict):
            return await transact()
    return await transact()


async def _transact(
    family: AnyFamily,
    database: Database,
    candidates: Sequence[Candidate],
    tells: bool,
    asks: Collection[str],
    tolerance: timedelta,
) -> Report:
    """A handler that hangs is cut off; a database that hangs is noticed before, as unavailable."""
    async with asyncio.timeout(HANDLE_SECONDS), database.transaction() as connection:
        claimed = await event_log.claim(connection, family.name, candidates)
        failpoint("claimed")
        events = [_event(candidates[position], tolerance) for position in sorted(claimed.positions)]
        effects = NO_EFFECTS
        if events:
            effects = await apply_events(
                family, connection, events, record_changes=tells, enabled_actions=asks
            )
        await event_log.note(connection, family.name, effects)
        corrections = NO_EFFECTS
        if claimed.corrected:
            # Once the new events are applied, since it is computed from all that the log holds.
            earlier = [_event(candidates[position], tolerance) for position in sorted(claimed.corrected)]
            past = event_log.LoggedPast(family.name, tolerance)
            corrections = await correct(family, connection, earlier, past, record_changes=tells)
            await event_log.note(connection, family.name, corrections)
        await event_log.note_reuse(connection, claimed.findings)
        await table.ask(connection, effects.actions)
        dispositions = [
            (
                candidate.envelope,
                Disposition.APPLIED if position in claimed.positions else Disposition.DUPLICATE,
            )
            for position, candidate in enumerate(candidates)
        ]
        await ledger.record(connection, family.name, dispositions)
        # The last: until the commit it keeps other writers of the family waiting.
        await outbox.write(connection, family.name, (*effects.changes, *corrections.changes))
        failpoint("saved")
    failpoint("committed")
    outcomes = (
        Applied() if position in claimed.positions else Duplicate() for position in range(len(candidates))
    )
    findings = (*effects.findings, *claimed.findings)
    return Report(tuple(outcomes), effects.stale, len(findings), _implausible(findings))


def _implausible(findings: Sequence[Finding]) -> int:
    return sum(found.kind == IMPLAUSIBLE_TIMESTAMP for found in findings)


async def record_failures(
    family: AnyFamily, database: Database, batch: Sequence[Item], copies: Sequence[Message | None]
) -> None:
    """Record where the copies of failed deliveries went, once they are confirmed.

    Raises:
        DatabaseUnavailable
    """
    dead = dead_queue(family.name)
    dispositions = [
        (envelope, Disposition.DEAD if copy.routing_key == dead else Disposition.RETRYING)
        for item, copy in zip(batch, copies, strict=True)
        if copy is not None and (envelope := _envelope_of(item)) is not None
    ]
    async with database.transaction() as connection:
        await ledger.record(connection, family.name, dispositions)


def _envelope_of(item: Item) -> Envelope | None:
    if isinstance(item, Decoded):
        return item.candidate.envelope
    try:
        return Envelope.from_headers(item.delivery.headers)
    except InvalidEnvelope:
        return None


def _event(candidate: Candidate, tolerance: timedelta) -> Event[Payload]:
    envelope = candidate.envelope
    return Event(envelope.event_id, envelope.received_at, candidate.payload, envelope.content_id, tolerance)


def copy_to_publish(
    family: str,
    item: Item,
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
            reason = f"{safe_summary(error)} #{fingerprint(error)}"
            match after_failure(attempt, delays):
                case Retry(delay, next_attempt):
                    return _copy(item, retry_queue(family, delay), next_attempt, reason, now)
                case Exhausted():
                    return _copy(item, dead_queue(family), attempt, f"exhausted: {reason}", now)
                case unreachable:
                    assert_never(unreachable)
        case unreachable:
            assert_never(unreachable)


def attempt_of(item: Item) -> int:
    """The number of the attempt that this delivery was, from 1."""
    if isinstance(item, Decoded):
        return item.candidate.envelope.attempt
    told = item.delivery.headers.get("x-attempt")
    return told if isinstance(told, int) and told > 0 else 1


def requeue_copy(family: str, delivery: Delivery) -> Message:
    """A delivery to be put back at the end of its queue, as if it had just arrived."""
    return Message(RETURN, family_queue(family), delivery.type, _our_headers(delivery), delivery.body)


def event_id_of(delivery: Delivery) -> UUID:
    """The event id in the headers; of a message that has none, one made from its bytes."""
    try:
        return UUID(str(delivery.headers.get("x-event-id")))
    except ValueError:
        return identity.content_hash_id(delivery.body)


def identity_of(delivery: Delivery) -> UUID:
    """An id for the event of a delivery, without parsing its body.

    Several events may have the same event id, so the body counts as well.
    """
    return identity.content_hash_id(event_id_of(delivery).bytes + delivery.body)


def _copy(item: Item, queue: str, attempt: int, reason: str, now: datetime) -> Message:
    headers = {
        "x-first-failed-at": now.isoformat(),
        **_our_headers(item.delivery),
        "x-last-failed-at": now.isoformat(),
        "x-attempt": attempt,
        "x-reason": reason[:REASON_LIMIT],
    }
    return Message(RETURN, queue, item.delivery.type, headers, item.delivery.body)


def _our_headers(delivery: Delivery) -> dict[str, str | int]:
    """What the broker added (`x-death` and the like) ends here."""
    return {name: value for name in HEADERS if isinstance(value := delivery.headers.get(name), str | int)}
