"""How an entity came to its state, event by event.

The events come from the log and go through the family's own `decide`, so that the explanation cannot
differ from what a consumer does.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from operator import attrgetter
from typing import Any, Literal

import orjson

from consumers.details import Details
from consumers.family import Event, Finding
from consumers.logged import read_logged
from consumers.registry import FAMILIES, AnyFamily
from schemas.clock import TOLERANCE
from schemas.events import OBSERVATIONS
from worker.observability.errors import StockhookError
from worker.postgres.pool import Database
from worker.tools.private_values import redacted

Effect = Literal["applied", "older than the state", "changed nothing"]

EVENTS_OF_ENTITY = """
SELECT coalesce(reuse_of, event_id) AS event_id, provider, type, received_at, applied_at, attempt, body,
    evidence, coalesce(content_id, reuse_of) IS NOT NULL AS is_reused
FROM event_log
WHERE entity_id = $1 AND family = $2
ORDER BY seq
"""

# Reads the whole log: a gateway's ids have no index, which every event would pay for.
ENTITIES_BY_GATEWAY_ID = """
SELECT DISTINCT family, entity_id
FROM event_log
WHERE EXISTS (
    SELECT
    FROM jsonb_each_text(evidence) AS named (name, value)
    WHERE value = $1 AND name <> 'gateway_attempt'
)
ORDER BY family, entity_id
"""

DROPPED = "SELECT max(applied_before) FROM event_log_dropped"


class NoSuchEntity(StockhookError):
    """The log holds no event of the entity."""


@dataclass(frozen=True, slots=True)
class Logged:
    """An event in the log. `is_reused`: another event had its id before. `evidence`: how the gateway and the
    proxy name its request."""

    event: Event[Any]
    is_reused: bool
    type: str
    applied_at: datetime
    attempt: int
    evidence: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Step:
    """What one event did when it was applied; `why` names the rules that `decide` applied."""

    logged: Logged
    effect: Effect
    why: str
    changes: dict[str, tuple[object, object]]
    findings: tuple[Finding, ...]
    withdrawn: tuple[Finding, ...]
    communications: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Steps in the order in which the events happened, and the states that they led to.

    `agrees` says whether the tables hold the same states. It is None if the explanation ends at an earlier
    time, if events that were applied before `log_begins_at` were dropped from the log, or if `unreadable`
    events cannot be read by this release. `details` are the newest answer of the marketplace's API.
    """

    entity: str
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
    """An entity's states while its events are replayed in the order in which they were applied."""

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
        changes = _changes(self.family, before, decision.state)
        return Step(
            logged=logged,
            effect=self._effect(event, changes),
            why="; ".join([*_circumstances(logged), *decision.rules]),
            changes=changes,
            findings=decision.findings,
            withdrawn=decision.withdrawn,
            communications=tuple(communication.kind.value for communication in decision.communications),
        )

    def _effect(self, event: Event[Any], changes: Mapping[str, object]) -> Effect:
        key, order_key = self.family.key(event.payload), self.family.order_key(event)
        newest = self.newest.setdefault(key, order_key)
        self.newest[key] = max(newest, order_key)
        if changes:
            return "applied"
        return "older than the state" if order_key < newest else "changed nothing"


def _circumstances(logged: Logged) -> Iterator[str]:
    """What is special about an event, whatever its family does with it."""
    if logged.is_reused:
        yield "its id was used before with other contents, so it counts as an event of its own"
    if isinstance(logged.event.payload, OBSERVATIONS):
        yield "observed on the marketplace"
    if not logged.event.is_plausible:
        yield "its timestamp is implausible, so the time of its reception counts"


async def entities_by_gateway_id(database: Database, gateway_id: str) -> list[tuple[AnyFamily, str]]:
    """What the events are about whose request the gateway or the proxy names so.

    Raises:
        NoSuchEntity
        DatabaseUnavailable
    """
    async with database.connection() as connection:
        rows = await connection.fetch(ENTITIES_BY_GATEWAY_ID, gateway_id)
    if not rows:
        raise NoSuchEntity(
            f"no event in the event log has the gateway's id {gateway_id}: "
            "see also `stockhook dead list --gateway-id`"
        )
    return [(FAMILIES[row["family"]], row["entity_id"]) for row in rows]


async def explain_entity(
    database: Database,
    family: AnyFamily,
    entity_id: str,
    at: datetime | None = None,
    tolerance: timedelta = TOLERANCE,
) -> Explanation:
    """Replay an entity's events in the order in which they were applied; `at` omits what happened later.

    Raises:
        NoSuchEntity
        DatabaseUnavailable
    """
    async with database.connection() as connection, connection.transaction(isolation="repeatable_read"):
        rows = await connection.fetch(EVENTS_OF_ENTITY, entity_id, family.name)
        read = [_logged(row, tolerance) for row in rows]
        logged = [one for one in read if one is not None]
        log_begins_at = await connection.fetchval(DROPPED)
        events = [one.event for one in logged]
        live = await family.load(connection, events, lock=False) if events else {}
        details = await family.load_details(connection, entity_id) if family.load_details else None
    happened = _happened_by(at, logged, family.entity, entity_id, log_begins_at)
    replay = _Replay(family)
    # Events of one transaction have the same applied_at, and were applied in the order of happening.
    applied = sorted(happened, key=lambda one: (one.applied_at, family.order_key(one.event)))
    steps = sorted(
        (replay.step(one) for one in applied), key=lambda step: family.order_key(step.logged.event)
    )
    states = _plain_states(family, replay.states)
    is_whole = at is None and log_begins_at is None and len(logged) == len(rows)
    return Explanation(
        entity=family.entity,
        entity_id=entity_id,
        at=at,
        steps=tuple(steps),
        states=tuple(
            {path: _shown(family, path, value) for path, value in state.items()} for state in states
        ),
        findings=tuple(sorted(replay.findings, key=attrgetter("kind", "message"))),
        agrees=states == _plain_states(family, live) if is_whole else None,
        log_begins_at=log_begins_at,
        unreadable=len(rows) - len(logged),
        details=None if details is None or (at is not None and at < details.enriched_at) else details,
    )


def _happened_by(
    at: datetime | None,
    logged: Sequence[Logged],
    entity: str,
    entity_id: str,
    log_begins_at: datetime | None,
) -> list[Logged]:
    """The events that had happened by then; all of them if no time is given.

    Raises:
        NoSuchEntity
    """
    if not logged:
        since = f", which begins at {log_begins_at:%Y-%m-%d}" if log_begins_at else ""
        raise NoSuchEntity(f"there is no {entity} {entity_id} in the event log{since}")
    happened = [one for one in logged if at is None or one.event.instant <= at]
    if not happened:
        first = min(one.event.instant for one in logged)
        raise NoSuchEntity(
            f"nothing had happened to {entity} {entity_id} by then: its first event is of {first.isoformat()}"
        )
    return happened


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
        evidence=orjson.loads(row["evidence"] or "{}"),
    )


def _plain_states(family: AnyFamily, states: Mapping[Any, Any]) -> list[dict[str, object]]:
    return [dict(_plain(family, states[key])) for key in sorted(states, key=repr)]


def _plain(family: AnyFamily, value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """The values of a state by their path, with those of nested records and mappings."""
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
        if name in family.internal:
            continue
        inner_path = path if name in ("values", "latest") else f"{path}.{name}".lstrip(".")
        yield from _plain(family, inner, inner_path)


def _changes(family: AnyFamily, before: object, after: object) -> dict[str, tuple[object, object]]:
    old = dict(_plain(family, before)) if before is not None else {}
    return {
        path: (_shown(family, path, old.get(path)), _shown(family, path, value))
        for path, value in _plain(family, after)
        if old.get(path) != value
    }


def _shown(family: AnyFamily, path: str, value: object) -> object:
    return redacted(family, path.rpartition(".")[2], value)
