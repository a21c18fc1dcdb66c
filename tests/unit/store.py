"""A family's rows, findings and communications in memory: the real `project`, no database."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from consumers.family import Communication, Connection, Effects, Event, Finding, project
from consumers.inventory.decide import Change, Part, needs_history, with_history
from consumers.registry import AnyFamily
from schemas.changes import Change as Told
from worker.actions.registry import KINDS


class NoConnection:
    async def fetch(self, query: str, *args: object) -> list[Any]:
        raise AssertionError("the store has no database")

    async def execute(self, query: str, *args: object) -> str:
        raise AssertionError("the store has no database")


def _key(found: Finding) -> tuple[object, ...]:
    return (found.kind, found.entity_id, found.event_id)


@dataclass
class Store:
    """Applies batches as a consumer does: what was claimed before is left out."""

    family: AnyFamily
    rows: dict[Any, Any] = field(default_factory=dict)
    log: list[Event[Any]] = field(default_factory=list)
    findings: set[Finding] = field(default_factory=set)
    communications: set[Communication] = field(default_factory=set)
    told: list[Told] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)

    async def apply(self, batch: Sequence[Event[Any]]) -> None:
        new: list[Event[Any]] = []
        for event in batch:
            if event not in self.log and event not in new:
                new.append(event)
        if not new:
            return
        self.log += new
        family = replace(self.family, load=self._load, save=self._save)
        effects = await project(family, NoConnection(), new, tells=True, asks=KINDS)
        self._note(effects)
        self.communications |= set(effects.communications)
        self.told += effects.changes
        self.asked |= {action.key for action in effects.actions}

    def _note(self, effects: Effects) -> None:
        """As the table has them: a finding's words are no part of its key, and the greater stand."""
        gone = {_key(found) for found in effects.withdrawn}
        rows = {_key(found): found for found in self.findings if _key(found) not in gone}
        for found in effects.findings:
            rows[_key(found)] = max(found, rows.get(_key(found), found), key=lambda one: one.words)
        self.findings = set(rows.values())

    async def _load(self, _: Connection, events: Sequence[Event[Any]]) -> Mapping[Any, Any]:
        keys = {self.family.key(event.payload) for event in events}
        rows = {key: self.rows[key] for key in keys if key in self.rows}
        return {
            key: self._with_history(row, events) if isinstance(row, Part) else row
            for key, row in rows.items()
        }

    def _with_history(self, part: Part, events: Sequence[Event[Any]]) -> Part:
        new = {Change.of(event) for event in events if event.payload.entity_id == part.part_id}
        if not needs_history(part, new):
            return replace(part, history=None)
        logged = [event for event in self.log if event.payload.entity_id == part.part_id]
        return with_history(part, logged, new)

    async def _save(self, _: Connection, states: Collection[Any]) -> None:
        for state in states:
            # As a database would: what is not a column is not there next time.
            kept = replace(state, history=None, seen=frozenset()) if isinstance(state, Part) else state
            self.rows[self._key_of(state)] = kept

    def _key_of(self, state: Any) -> Any:
        match self.family.name:
            case "inventory":
                return state.part_id
            case "returns":
                return state.return_id
            case "reminders":
                return replace(state, days=None)
            case _:
                return state.order_id
