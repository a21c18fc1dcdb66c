"""An explanation as plain data: the JSON of `stockhook explain`, and what the console shows."""

from dataclasses import asdict
from typing import Any

from consumers.family import Finding
from worker.tools.explain.explanation import Explanation, Step

# Columns that repeat the event's own time and id: not worth a line for people.
EVENT_COLUMNS = frozenset({"occurred_at", "event_id", "external_id_at"})


def repeats_the_event(path: str) -> bool:
    """Whether a value of a state only repeats the time or the id of the event that set it."""
    return path.rpartition(".")[2] in EVENT_COLUMNS


def explanation_data(explanation: Explanation) -> dict[str, Any]:
    """Durations are seconds."""
    return {
        "kind": explanation.entity,
        "entity_id": explanation.entity_id,
        "at": explanation.at,
        "events": [step_data(step) for step in explanation.steps],
        "states": list(explanation.states),
        "findings": [finding_data(finding) for finding in explanation.findings],
        "agrees_with_tables": explanation.agrees,
        "log_begins_at": explanation.log_begins_at,
        "unreadable_events": explanation.unreadable,
        "enrichment": None if explanation.details is None else asdict(explanation.details),
    }


def step_data(step: Step) -> dict[str, Any]:
    logged = step.logged
    occurred_at = logged.event.payload.occurred_at
    return {
        "event_id": logged.event.event_id,
        "id_used_twice": logged.is_reused,
        "type": logged.type,
        "occurred_at": occurred_at,
        "received_at": logged.event.received_at,
        "applied_at": logged.applied_at,
        "seconds_to_receive": (logged.event.received_at - occurred_at).total_seconds(),
        "seconds_to_apply": (logged.applied_at - logged.event.received_at).total_seconds(),
        "attempts": logged.attempt,
        "evidence": dict(logged.evidence),
        "effect": step.effect,
        "why": step.why,
        "changes": {path: {"from": old, "to": new} for path, (old, new) in step.changes.items()},
        "findings": [finding_data(finding) for finding in step.findings],
        "withdrawn": [finding_data(finding) for finding in step.withdrawn],
        "communications": step.communications,
    }


def finding_data(finding: Finding) -> dict[str, Any]:
    return {"kind": finding.kind, "event_id": finding.event_id, "message": finding.message}
