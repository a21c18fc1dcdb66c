"""What made a part, an order, a return or a trade-in what it is, event by event.

The events come from the log and go through the family's own `decide`, so that the explanation cannot
differ from what a consumer does.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from operator import attrgetter
from typing import Any, Literal, assert_never

from consumers.family import Connection, Event, Finding
from consumers.inventory import details as of_part
from consumers.logged import read_logged
from consumers.registry import FAMILIES, AnyFamily
from consumers.returns import details as of_return
from schemas.clock import TOLERANCE
from schemas.events import OBSERVATIONS
from worker.observability.errors import StockhookError
from worker.postgres.pool import Database
from worker.postgres.read_only import Reading

Details = of_part.PartDetails | of_return.ReturnDetails

Effect = Literal["applied", "older than the state", "changed nothing"]
Kind = Literal["part", "order", "return", "buyback", "reminder"]

FAMILY_OF_KIND: dict[Kind, str] = {
    "part": "inventory",
    "order": "orders",
    "return": "returns",
    "buyback": "buybacks",
    "reminder": "reminders",
}

EVENTS_OF_ENTITY = """
SELECT coalesce(reuse_of, event_id) AS event_id, provider, type, received_at, applied_at, attempt, body,
    coalesce(content_id, reuse_of) IS NOT NULL AS is_reused
FROM event_log
WHERE entity_id = $1 AND family = $2
ORDER BY seq
"""

DROPPED = "SELECT max(applied_before) FROM event_log_dropped"

# Columns of private people and of addresses that let one in: that they changed is shown, not to what.
_PRIVATE = re.compile(r"customer_|payment_details|account_number|_url")
_KEPT_BACK = "(kept back)"

# What is of no state's meaning: how often it was written, and what it was computed from.
_MACHINERY = frozenset({"revision", "history", "has_implausible", "stamps", "rank"})


class NoSuchEntity(StockhookError):
    """The log holds no event of it."""


@dataclass(frozen=True, slots=True)
class Logged:
    """An event as the log has it. `is_reused`: another event had its id."""

    event: Event[Any]
    is_reused: bool
    type: str
    applied_at: datetime
    attempt: int


@dataclass(frozen=True, slots=True)
class Step:
    """What one event did when it came; `why` names the rule."""

    logged: Logged
    effect: Effect
    why: str
    changes: dict[str, tuple[object, object]]
    findings: tuple[Finding, ...]
    withdrawn: tuple[Finding, ...]
    communications: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Steps in the order of happening, and the states they led to.

    `agrees` says whether the tables hold the same states; None where it was asked for an earlier time, or
    where events that were applied before `log_begins_at` were dropped from the log, or where one cannot be
    read any more: `unreadable` are so many. `details` are what the
    marketplace told when it was asked.
    """

    kind: Kind
    entity_id: str
    at: datetime | None
    steps: tuple[Step, ...]
    states: tuple[dict[str, object], ...]
    findings: tuple[Finding, ...]
    agrees: bool | None
    log_begins_at: datetime | None
    unreadable: int
    details: Details | None


@dataclass(slots=True)
class _Replay:
    """An entity's states while its events are gone through in the order in which they were applied."""

    family: AnyFamily
    states: dict[Any, Any] = field(default_factory=dict)
    newest: dict[Any, Any] = field(default_factory=dict)
    findings: set[Finding] = field(default_factory=set)

    def step(self, logged: Logged) -> Step:
        event = logged.event
        key = self.family.key(event.payload)
        before = self.states.get(key)
        decision = self.family.decide(before, event)
        self.states[key] = decision.state
        self.findings -= set(decision.withdrawn)
        self.findings |= set(decision.findings)
        why = self.family.why(before, event)
        if not event.is_plausible and self.family.name != "inventory":
            why = f"its timestamp is implausible, so its reception counts; {why}"
        if isinstance(event.payload, OBSERVATIONS):
            why = f"observed on the marketplace; {why}"
        changes = _changes(before, decision.state)
        if logged.is_reused:
            why = f"its id was used before with other contents, so it counts as an event of its own; {why}"
        return Step(
            logged=logged,
            effect=self._effect(event, changes),
            why=why,
            changes=changes,
            findings=decision.findings,
            withdrawn=decision.withdrawn,
            communications=tuple(call.kind.value for call in decision.communications),
        )

    def _effect(self, event: Event[Any], changes: Mapping[str, object]) -> Effect:
        key, happened = self.family.key(event.payload), self.family.order_key(event)
        newest = self.newest.setdefault(key, happened)
        self.newest[key] = max(newest, happened)
        if changes:
            return "applied"
        return "older than the state" if happened < newest else "changed nothing"


async def explain_entity(
    database: Database,
    kind: Kind,
    entity_id: str,
    at: datetime | None = None,
    tolerance: timedelta = TOLERANCE,
) -> Explanation:
    """Go through an entity's events as they were applied; `at` leaves out what happened later.

    Raises:
        NoSuchEntity
        DatabaseUnavailable
    """
    family = FAMILIES[FAMILY_OF_KIND[kind]]
    async with database.connection() as connection, connection.transaction(isolation="repeatable_read"):
        rows = await connection.fetch(EVENTS_OF_ENTITY, entity_id, family.name)
        read = [_logged(row, tolerance) for row in rows]
        logged = [one for one in read if one is not None]
        log_begins_at = await connection.fetchval(DROPPED)
        live = await family.load(Reading(connection), [one.event for one in logged]) if logged else {}
        details = await _details(Reading(connection), kind, entity_id)
    told = _told(kind, entity_id, at, logged, log_begins_at)
    replay = _Replay(family)
    # Those of one transaction have one applied_at, and were decided on in the order of happening.
    applied = sorted(told, key=lambda one: (one.applied_at, family.order_key(one.event)))
    steps = sorted(
        (replay.step(one) for one in applied), key=lambda step: family.order_key(step.logged.event)
    )
    states = _plain_states(replay.states)
    is_whole = at is None and log_begins_at is None and len(logged) == len(rows)
    return Explanation(
        kind=kind,
        entity_id=entity_id,
        at=at,
        steps=tuple(steps),
        states=tuple(_without_private(state) for state in states),
        findings=tuple(sorted(replay.findings, key=attrgetter("kind", "words"))),
        agrees=states == _plain_states(live) if is_whole else None,
        log_begins_at=log_begins_at,
        unreadable=len(rows) - len(logged),
        details=None if details is None or (at is not None and at < details.details_at) else details,
    )


async def _details(connection: Connection, kind: Kind, entity_id: str) -> Details | None:
    match kind:
        case "part":
            return await of_part.details_of(connection, entity_id)
        case "return":
            return await of_return.details_of(connection, entity_id)
        case "order" | "buyback" | "reminder":
            return None
        case unreachable:
            assert_never(unreachable)


def _told(
    kind: Kind, entity_id: str, at: datetime | None, logged: Sequence[Logged], log_begins_at: datetime | None
) -> list[Logged]:
    """Those that had happened by then.

    Raises:
        NoSuchEntity
    """
    if not logged:
        since = f", which begins at {log_begins_at:%Y-%m-%d}" if log_begins_at else ""
        raise NoSuchEntity(f"there is no {kind} {entity_id} in the event log{since}")
    told = [one for one in logged if at is None or one.event.instant <= at]
    if not told:
        first = min(one.event.instant for one in logged)
        raise NoSuchEntity(
            f"nothing had happened to {kind} {entity_id} by then: its first event is of {first.isoformat()}"
        )
    return told


def _logged(row: Any, tolerance: timedelta) -> Logged | None:
    event = read_logged(row, tolerance)
    if event is None:
        return None
    return Logged(
        event=event,
        is_reused=row["is_reused"],
        type=row["type"],
        applied_at=row["applied_at"],
        attempt=row["attempt"],
    )


def _plain_states(states: Mapping[Any, Any]) -> list[dict[str, object]]:
    return [dict(_plain(states[key])) for key in sorted(states, key=repr)]


def _plain(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """A state's values by their path: of nested records and mappings too."""
    if is_dataclass(value) and not isinstance(value, type):
        pairs = [(one.name, getattr(value, one.name)) for one in fields(value)]
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        pairs = list(value._asdict().items())
    elif isinstance(value, Mapping):
        pairs = [(str(key), value[key]) for key in sorted(value)]
    else:
        if value is not None:
            yield path, value.value if isinstance(value, Enum) else value
        return
    for name, inner in pairs:
        if name in _MACHINERY:
            continue
        yield from _plain(inner, path if name in ("values", "latest") else f"{path}.{name}".lstrip("."))


def _changes(before: object, after: object) -> dict[str, tuple[object, object]]:
    known, told = dict(_plain(before)) if before is not None else {}, dict(_plain(after))
    changed = {path: (known.get(path), value) for path, value in told.items() if known.get(path) != value}
    return {path: (_shown(path, old), _shown(path, new)) for path, (old, new) in changed.items()}


def _without_private(state: Mapping[str, object]) -> dict[str, object]:
    return {path: _shown(path, value) for path, value in state.items()}


def _shown(path: str, value: object) -> object:
    return _KEPT_BACK if value is not None and _PRIVATE.search(path) else value
