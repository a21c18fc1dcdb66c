"""A family's rows, findings and communications in memory: the real `apply_events`, no database."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from consumers.effects import Effects, apply_events, correct
from consumers.family import Communication, Connection, Event, Finding
from consumers.inventory import sequence
from consumers.inventory.earlier_events import reading, with_history, with_nearby
from consumers.inventory.part import Part
from consumers.inventory.summary import summarized, summary_of
from consumers.registry import AnyFamily
from schemas.changes import Change
from worker.actions.registry import KINDS


class NoConnection:
    async def fetch(self, query: str, *args: object) -> list[Any]:
        raise AssertionError("the store has no database")

    async def execute(self, query: str, *args: object) -> str:
        raise AssertionError("the store has no database")


def identity_of(event: Event[Any]) -> tuple[object, ...]:
    """Two events are the same if these are equal."""
    return event.event_id, event.payload, event.payload.unreadable_fields


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
    summaries: dict[str, str | None] = field(default_factory=dict)
    reads_everything: bool = False
    read: int = 0

    async def apply(self, batch: Sequence[Event[Any]]) -> None:
        new: dict[Any, Event[Any]] = {}
        corrected: dict[Any, Event[Any]] = {}
        for event in batch:
            identity = identity_of(event)
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
            key: self._with_earlier(row, events) if isinstance(row, Part) else row
            for key, row in rows.items()
        }

    def _with_earlier(self, part: Part, events: Sequence[Event[Any]]) -> Part:
        """What `consumers.inventory.store.load` reads from the log."""
        new = [event for event in events if event.payload.entity_id == part.part_id]
        logged = [event for event in self.log.values() if event.payload.entity_id == part.part_id]
        now = max(event.received_at for event in self.log.values())
        is_current = part.latest.occurred_at <= now + new[0].tolerance
        # A database does not store attributes that are no columns.
        row = replace(part, is_current=is_current, written_off_since=None, is_crowded=False, reports=None)
        part = summarized(row, self.summaries[part.part_id])
        wanted = reading(part, new)
        if wanted.everything or self.reads_everything:
            self.read += len(logged)
            return with_history(part, logged, new)
        plausible = sorted((event for event in logged if event.is_plausible), key=lambda one: one.instant)
        read: dict[int, Event[Any]] = {}
        for instant in wanted.around:
            before = max((one.instant for one in plausible if one.instant < instant), default=None)
            after = min((one.instant for one in plausible if one.instant > instant), default=None)
            for near in (before, instant, after):
                at_once = [event for event in plausible if event.instant == near]
                read |= {id(event): event for event in at_once[: sequence.MOST_AT_ONCE + 1 + len(new)]}
        if wanted.between:
            first, last = wanted.between
            read |= {id(event): event for event in plausible if first < event.instant <= last}
        self.read += len(read)
        used = Counter(event.event_id for event in self.log.values())
        if any(used[event.event_id] > 1 for event in read.values()):
            return with_history(part, logged, new)
        return with_nearby(part, read.values(), new)

    async def _save(self, _: Connection, states: Collection[Any]) -> None:
        for state in states:
            if isinstance(state, Part):
                # The store does not count revisions: the row has the revision 0 again.
                self.summaries[state.part_id] = summary_of(replace(state, revision=-1))
                state = replace(state, known=None, nearby=())
            self.rows[self._key_of(state)] = state

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
