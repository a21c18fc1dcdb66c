"""How a batch of a family's events changes its rows, and what else follows from them."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from consumers.family import (
    IMPLAUSIBLE_TIMESTAMP,
    Communication,
    Connection,
    Event,
    Family,
    Finding,
    K,
    P,
    S,
)
from schemas.actions import Action
from schemas.changes import Change, CommunicationState

# A finding names at most this many fields.
MOST_NAMED = 10


class Past(Protocol):
    """The stored events and findings of one family's entities."""

    async def events(self, connection: Connection, entities: Collection[str]) -> Sequence[Event[Any]] | None:
        """None if the log no longer holds all of them."""

    async def findings(self, connection: Connection, entities: Collection[str]) -> set[Finding]: ...


@dataclass(frozen=True, slots=True)
class Effects:
    """What a batch of claimed events led to. `stale` events changed no row.

    `changes` are in order, and empty unless they were requested. Some of `actions` may have been required by
    an earlier event.
    """

    stale: int
    findings: frozenset[Finding]
    withdrawn: frozenset[Finding]
    communications: tuple[Communication, ...]
    changes: tuple[Change, ...] = ()
    actions: tuple[Action, ...] = ()


async def apply_events(
    family: Family[P, K, S],
    connection: Connection,
    events: Sequence[Event[P]],
    *,
    record_changes: bool = False,
    enabled_actions: Collection[str] = (),
) -> Effects:
    """Load the rows of these events, decide event by event, and save each changed row once.

    `record_changes` also returns each changed row and each communication as a change for subscribers. Only
    actions whose kind is in `enabled_actions` are returned.
    """
    ordered = sorted(events, key=family.order_key)
    states: dict[K, S] = dict(await family.load(connection, ordered, lock=True))
    changed: set[K] = set()
    findings: set[Finding] = set()
    withdrawn: set[Finding] = set()
    communications: list[Communication] = []
    changes: list[Change] = []
    actions: list[Action] = []
    stale = 0

    for event in ordered:
        key = family.key(event.payload)
        before = states.get(key)
        decision = family.decide(before, event)
        if decision.state == before:
            stale += 1
        else:
            changed.add(key)
            if record_changes:
                changes += state_changes(family, event, before, decision.state)
        states[key] = decision.state
        if decision.withdrawn or decision.findings:
            withdrawn.difference_update(decision.findings)
            withdrawn.update(decision.withdrawn)
            findings.difference_update(decision.withdrawn)
            findings.update(decision.findings)
        if event.payload.unreadable_fields:
            findings.add(_unreadable_field_finding(event))
        communications += decision.communications
        if record_changes:
            changes += map(communication_change, decision.communications)
        if enabled_actions:
            required = family.required_actions(before, event)
            actions += (action for action in required if action.kind in enabled_actions)

    if changed:
        await family.save(connection, [states[key] for key in sorted(changed, key=repr)])
    return Effects(
        stale,
        frozenset(findings),
        frozenset(withdrawn),
        tuple(communications),
        tuple(changes),
        tuple(actions),
    )


def _unreadable_field_finding(event: Event[P]) -> Finding:
    payload = event.payload
    unreadable = payload.unreadable_fields
    more = f" and {len(unreadable) - MOST_NAMED} more" if len(unreadable) > MOST_NAMED else ""
    message = f"treated as absent, because it could not be read: {', '.join(unreadable[:MOST_NAMED])}{more}"
    return Finding("odd_field", payload.entity_id, event.event_id, message)


async def correct(
    family: Family[P, K, S],
    connection: Connection,
    corrected: Sequence[Event[P]],
    past: Past,
    *,
    record_changes: bool = False,
) -> Effects:
    """Recompute states after an earlier reception of an applied event became known. This is rare.

    `corrected` are these events with their earlier reception. Nothing is computed if the reception makes no
    difference, or if the log no longer has all events.
    """
    states = dict(await family.load(connection, corrected, lock=True))
    by_key = {family.key(event.payload): event for event in corrected}
    entities = {event.payload.entity_id for event in corrected if _is_implausible(family, event)}
    entities |= {
        by_key[key].payload.entity_id for key, state in states.items() if family.rests_on_receptions(state)
    }
    # Read after the rows are locked: until the commit, no other transaction applies events of these entities.
    logged = await past.events(connection, entities) if entities else None
    if logged is None:
        return Effects(0, frozenset(), frozenset(), ())

    recomputed: dict[K, S] = {}
    findings: set[Finding] = set()
    communications: list[Communication] = []
    for event in sorted(logged, key=family.order_key):
        key = family.key(event.payload)
        decision = family.decide(recomputed.get(key), event)
        recomputed[key] = decision.state
        findings.difference_update(decision.withdrawn)
        findings.update(decision.findings)
        if event.payload.unreadable_fields:
            findings.add(_unreadable_field_finding(event))
        communications += decision.communications

    changes: list[Change] = []
    changed: list[S] = []
    for key, cause in sorted(by_key.items(), key=repr):
        if cause.payload.entity_id not in entities:
            continue
        before = states.get(key)
        after = _with_revision_of(before, recomputed[key])
        if after != before:
            changed.append(after)
            if record_changes:
                changes += state_changes(family, cause, before, after)
    if changed:
        await family.save(connection, changed)
    withdrawn = await past.findings(connection, entities) - findings
    return Effects(0, frozenset(findings), frozenset(withdrawn), tuple(communications), tuple(changes))


def _is_implausible(family: Family[P, K, S], event: Event[P]) -> bool:
    findings = family.decide(None, event).findings
    return not event.is_plausible or any(finding.kind == IMPLAUSIBLE_TIMESTAMP for finding in findings)


def _with_revision_of(before: S | None, after: S) -> S:
    """A state that was computed from the log, with the revision of the row that it replaces."""
    if before is None or not hasattr(before, "revision"):
        return after
    row: Any = after
    state: S = replace(row, revision=before.revision)
    return state


def state_changes(family: Family[P, K, S], event: Event[P], before: S | None, after: S) -> tuple[Change, ...]:
    """What subscribers receive: nothing if the values that they see stay the same."""
    state_before = None if before is None else family.public_state(before)
    state_after = family.public_state(after)
    if state_before == state_after:
        return ()
    kind = family.change_type(before, after)
    return (Change(kind, event.payload.entity_id, event.event_id, event.instant, state_before, state_after),)


def communication_change(communication: Communication) -> Change:
    kind, order_id = communication.kind, communication.order_id
    occurred_at = communication.occurred_at
    state = CommunicationState(order_id, kind, communication.item_id, occurred_at)
    return Change(f"communication.{kind}", order_id, communication.event_id, occurred_at, None, state)
