"""One batch from claim to commit.

decode -> claim -> load -> decide -> save -> commit -> flush -> publish copies -> ack
          +---------- one transaction ----------+
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from uuid import UUID

from consumers.effects import Effects, apply_events, correct
from consumers.family import IMPLAUSIBLE_TIMESTAMP, Connection, Event, WriteConflict
from consumers.registry import AnyFamily
from schemas.clock import TOLERANCE
from schemas.envelope import Envelope
from schemas.event_schema import Payload
from schemas.trace_context import is_recorded
from worker.amqp.channel import Message
from worker.amqp.queue_set import dead_queue
from worker.observability.failpoints import failpoint
from worker.outbox import actions as action_outbox
from worker.outbox.batch_end import end_batch
from worker.pipeline.decode import Decoded, Item, envelope_of
from worker.pipeline.outcome import Applied, BatchFailed, Duplicate, Failed, Invalid, Report
from worker.postgres import event_log, findings
from worker.postgres.durability import Flusher
from worker.postgres.event_log import Candidate, Claim
from worker.postgres.failures import DatabaseUnavailable, TransactionConflict
from worker.postgres.ledger import Disposition
from worker.postgres.pool import Database

NO_EFFECTS = Effects(0, frozenset(), frozenset(), ())

# Far longer than a batch takes, and far below the broker's consumer timeout. A database that hangs is noticed
# earlier, as unavailable.
TRANSACTION_SECONDS = 30.0

# How often a transaction is repeated without a pause after a conflict with another one.
CONFLICT_REPEATS = 5


async def apply_batch(
    family: AnyFamily,
    flusher: Flusher,
    batch: Sequence[Item],
    *,
    record_changes: bool = False,
    enabled_actions: Collection[str] = (),
    tolerance: timedelta = TOLERANCE,
) -> Report:
    """Apply a batch in one transaction, which commits asynchronously: see `Report.durable`.

    With `record_changes`, the same transaction writes its changes to the outbox; actions that its events
    require are enqueued if their kinds are in `enabled_actions`.

    Raises:
        BatchFailed: A batch of several events failed: apply fewer at a time. A single event is reported as
            Failed.
        DatabaseUnavailable: Whether the batch was committed is not known: apply it again, whole.
    """
    candidates = [item.candidate for item in batch if isinstance(item, Decoded)]
    transact = partial(
        _transact, family, flusher, candidates, record_changes, frozenset(enabled_actions), tolerance
    )
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
        return await _retry_conflicts(transact)
    except DatabaseUnavailable:
        raise
    except Exception as error:
        if events > 1:
            raise BatchFailed from error
        return Report((Failed(error),))


async def _retry_conflicts(transact: Callable[[], Awaitable[Report]]) -> Report:
    """Repeat without a pause: a conflict ends when the other transaction commits."""
    for _ in range(CONFLICT_REPEATS):
        with suppress(TransactionConflict, WriteConflict):
            return await transact()
    return await transact()


async def _transact(
    family: AnyFamily,
    flusher: Flusher,
    candidates: Sequence[Candidate],
    record_changes: bool,
    enabled_actions: frozenset[str],
    tolerance: timedelta,
) -> Report:
    # Outside the time limit, for which the event is blamed.
    await flusher.connect()
    async with (
        asyncio.timeout(TRANSACTION_SECONDS),
        flusher.transaction(asynchronously=True) as (connection, flush_session),
    ):
        claimed = await event_log.claim(connection, family.name, candidates)
        failpoint("claimed")
        events = [_event(candidates[position], tolerance) for position in sorted(claimed.positions)]
        effects = NO_EFFECTS
        if events:
            effects = await apply_events(
                family,
                connection,
                events,
                record_changes=record_changes,
                enabled_actions=enabled_actions,
            )
        await findings.note_findings(connection, family.name, effects)
        corrections = NO_EFFECTS
        if claimed.corrected:
            corrections = await _correct(family, connection, candidates, claimed, record_changes, tolerance)
        await findings.note_reuse(connection, claimed.findings)
        contexts = _contexts(candidates)
        await action_outbox.enqueue_all(connection, effects.actions, contexts)
        # Last, because other transactions of the family wait for its rows until the commit.
        await end_batch(
            connection,
            family.name,
            _dispositions(candidates, claimed),
            effects.communications,
            (*effects.changes, *corrections.changes),
            contexts,
        )
        failpoint("saved")
    failpoint("committed")
    # Also for duplicates: another process may have applied them, and not flushed its commit.
    return replace(_report(len(candidates), claimed, effects), durable=flush_session.flush())


def _contexts(candidates: Sequence[Candidate]) -> dict[UUID, str]:
    """The `traceparent` of each event whose trace is recorded."""
    return {
        candidate.envelope.event_id: traceparent
        for candidate in candidates
        if (traceparent := candidate.envelope.traceparent) is not None and is_recorded(traceparent)
    }


async def _correct(
    family: AnyFamily,
    connection: Connection,
    candidates: Sequence[Candidate],
    claimed: Claim,
    record_changes: bool,
    tolerance: timedelta,
) -> Effects:
    """Recompute states whose events were received earlier than the log knew.

    The new events are applied before, because this is computed from everything in the log.
    """
    earlier = [_event(candidates[position], tolerance) for position in sorted(claimed.corrected)]
    past = event_log.LoggedPast(family.name, tolerance)
    corrections = await correct(family, connection, earlier, past, record_changes=record_changes)
    await findings.note(connection, family.name, corrections)
    return corrections


def _dispositions(candidates: Sequence[Candidate], claimed: Claim) -> list[tuple[Envelope, Disposition]]:
    return [
        (candidate.envelope, Disposition.APPLIED if position in claimed.positions else Disposition.DUPLICATE)
        for position, candidate in enumerate(candidates)
    ]


def _report(events: int, claimed: Claim, effects: Effects) -> Report:
    outcomes = (Applied() if position in claimed.positions else Duplicate() for position in range(events))
    noted = (*effects.findings, *claimed.findings)
    implausible = sum(finding.kind == IMPLAUSIBLE_TIMESTAMP for finding in noted)
    return Report(tuple(outcomes), effects.stale, len(noted), implausible)


def _event(candidate: Candidate, tolerance: timedelta) -> Event[Payload]:
    envelope = candidate.envelope
    return Event(envelope.event_id, envelope.received_at, candidate.payload, envelope.content_id, tolerance)


async def record_copies(
    family: AnyFamily, database: Database, batch: Sequence[Item], copies: Sequence[Message | None]
) -> None:
    """Record, once they are confirmed, which deliveries of a batch wait for a retry and which are dead.

    Raises:
        DatabaseUnavailable
    """
    dead = dead_queue(family.name)
    dispositions = [
        (envelope, Disposition.DEAD if copy.routing_key == dead else Disposition.RETRYING)
        for item, copy in zip(batch, copies, strict=True)
        if copy is not None and (envelope := envelope_of(item)) is not None
    ]
    async with database.transaction() as connection:
        await end_batch(connection, family.name, dispositions)
