"""A family's rows, findings and communications in memory: the real `apply_events`, no database."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from consumers.effects import Effects, apply_events, correct
from consumers.family import Communication, Connection, Event, Finding
from consumers.inventory.decide import Part, needs_history, with_history
from consumers.registry import AnyFamily
from schemas.changes import Change
from worker.actions.registry import KINDS


class NoConnection:
    async def fetch(self, query: str, *args: object) -> list[Any]:
        raise AssertionError("the store has no database")

    async def execute(self, query: str, *args: object) -> str:
        raise AssertionError("the store has no database")


def _key(finding: Finding) -> tuple[object, ...]:
    return (finding.kind, finding.entity_id, finding.event_id)


@dataclass
class Store:
    """Applies batches as a consumer does, without events that were claimed before."""

    family: AnyFamily
    rows: dict[Any, Any] = field(default_factory=dict)
    log: dict[Any, Event[Any]] = field(default_factory=dict)
    findings: set[Finding] = field(default_factory=set)
    due: dict[Any, Communication] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    requested: set[str] = field(default_factory=set)

    async def apply(self, batch: Sequence[Event[Any]]) -> None:
        new: dict[Any, Event[Any]] = {}
        corrected: dict[Any, Event[Any]] = {}
        for event in batch:
            identity = (event.event_id, event.payload)
            logged = self.log.get(identity)
            # The copy that was received first counts.
            if logged is None:
                self.log[identity] = new[identity] = event
            elif event.received_at < logged.received_at:
                self.log[identity] = event
                (new if identity in new else corrected)[identity] = event
        family = replace(self.family, load=self._load, save=self._save)
        if new:
            effects = await apply_events(
                family, NoConnection(), list(new.values()), record_changes=True, enabled_actions=KINDS
            )
            self._take(effects)
            self.requested |= {action.key for action in effects.actions}
        if corrected:
            self._take(
                await correct(
                    family, NoConnection(), list(corrected.values()), _Past(self), record_changes=True
                )
            )

    @property
    def communications(self) -> set[Communication]:
        return set(self.due.values())

    def _take(self, effects: Effects) -> None:
        self._note(effects)
        for call in effects.communications:
            known = self.due.get((call.event_id, call.kind))
            if known is None or call.occurred_at < known.occurred_at:
                self.due[call.event_id, call.kind] = call
        self.changes += effects.changes

    def _note(self, effects: Effects) -> None:
        """Store findings as the table does: the message is not in the key; the greatest is kept."""
        gone = {_key(finding) for finding in effects.withdrawn}
        rows = {_key(finding): finding for finding in self.findings if _key(finding) not in gone}
        for finding in effects.findings:
            rows[_key(finding)] = max(finding, rows.get(_key(finding), finding), key=lambda one: one.message)
        self.findings = set(rows.values())

    async def _load(self, _: Connection, events: Sequence[Event[Any]], *, lock: bool) -> Mapping[Any, Any]:
        keys = {self.family.key(event.payload) for event in events}
        rows = {key: self.rows[key] for key in keys if key in self.rows}
        return {
            key: self._with_history(row, events) if isinstance(row, Part) else row
            for key, row in rows.items()
        }

    def _with_history(self, part: Part, events: Sequence[Event[Any]]) -> Part:
        new = [event for event in events if event.payload.entity_id == part.part_id]
        if not needs_history(part, new):
            return replace(part, history=None)
        logged = [event for event in self.log.values() if event.payload.entity_id == part.part_id]
        return with_history(part, logged, new)

    async def _save(self, _: Connection, states: Collection[Any]) -> None:
        for state in states:
            # A database does not store attributes that are no columns.
            stored = replace(state, history=None) if isinstance(state, Part) else state
            self.rows[self._key_of(state)] = stored

    def _key_of(self, state: Any) -> Any:
        if self.family.name == "reminders":
            return replace(state, days=None)
        return getattr(state, self.family.tables[0].entity)


@dataclass(frozen=True)
class _Past:
    """Reads from the store, as the pipeline reads from the tables."""

    store: Store

    async def events(self, _: Connection, entities: Collection[str]) -> list[Event[Any]]:
        return [event for event in self.store.log.values() if event.payload.entity_id in entities]

    async def findings(self, _: Connection, entities: Collection[str]) -> set[Finding]:
        return {finding for finding in self.store.findings if finding.entity_id in entities}
