"""`stockhook explain`: an explanation as tables, or as JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from consumers.family import Finding
from worker.cli.context import Json, load_context, open_database, print_json
from worker.cli.terminal import show
from worker.observability.inert_text import visible
from worker.observability.resolver import run_loop
from worker.tools.explain.explanation import (
    Details,
    Explanation,
    Kind,
    Step,
    explain_entity,
)

# Columns that repeat the event's own time and id.
OF_THE_EVENT = frozenset({"occurred_at", "event_id", "external_id_at"})


def explain(
    kind: Kind,
    entity_id: str,
    /,
    *,
    at: datetime | None = None,
    json: Json = False,
) -> None:
    """Show what made an entity what it is: each of its events, what it did, and by which rule.

    Events come in the order of happening; what each did is as of when it came. Exits 1 when the log holds
    no event of it.

    Parameters
    ----------
    kind
        part, order and return are Ovoko's; buyback is an order of the trade-in platform, and reminder
        stands for the reminders of one.
    entity_id
        Its id at the marketplace.
    at
        Show the state then: leave out what happened later. Without an offset it is UTC.
    """
    settings = load_context("explain")
    if at is not None and at.tzinfo is None:
        at = at.replace(tzinfo=UTC)

    async def ask() -> Explanation:
        async with open_database(settings, "explain", 1) as database:
            return await explain_entity(database, kind, entity_id, at, settings.tolerance)

    found = run_loop(ask())
    if json:
        print_json(_as_json(found))
    else:
        show(_as_tables(found))


def _as_json(found: Explanation) -> dict[str, Any]:
    """Durations are seconds."""
    return {
        "kind": found.kind,
        "entity_id": found.entity_id,
        "at": found.at,
        "events": [_step_as_json(step) for step in found.steps],
        "states": list(found.states),
        "findings": [_finding_as_json(finding) for finding in found.findings],
        "agrees_with_tables": found.agrees,
        "log_begins_at": found.log_begins_at,
        "unreadable_events": found.unreadable,
        "enrichment": None if found.details is None else asdict(found.details),
    }


def _step_as_json(step: Step) -> dict[str, Any]:
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
        "effect": step.effect,
        "why": step.why,
        "changes": {path: {"from": old, "to": new} for path, (old, new) in step.changes.items()},
        "findings": [_finding_as_json(finding) for finding in step.findings],
        "withdrawn": [_finding_as_json(finding) for finding in step.withdrawn],
        "communications": step.communications,
    }


def _finding_as_json(finding: Finding) -> dict[str, Any]:
    return {"kind": finding.kind, "event_id": finding.event_id, "message": finding.message}


def _as_tables(found: Explanation) -> RenderableType:
    """For a terminal."""
    # Two columns: of more, a terminal of 80 shows a few letters each.
    events = Table("happened", "what, and what it did")
    for step in found.steps:
        events.add_row(
            f"{step.logged.event.payload.occurred_at:%Y-%m-%d %H:%M:%S}", "\n".join(map(visible, _told(step)))
        )
        events.add_section()
    moment = "now" if found.at is None else f"at {found.at.isoformat()}"
    states = Table("column", f"state {moment}")
    for state in found.states:
        for path, value in state.items():
            states.add_row(visible(path), visible(value))
        states.add_section()
    details = [] if found.details is None else [_details(found.details)]
    return Group(events, states, *details, *map(visible, _last_lines(found)))


def _details(details: Details) -> Table:
    table = Table("column", "what Ovoko's API told")
    for name, value in asdict(details).items():
        match value:
            case None:
                continue
            case tuple():
                for item in value:
                    table.add_section()
                    for column, told in item.items():
                        if told is not None:
                            table.add_row(f"item.{column}", visible(told))
            case datetime():
                table.add_row(name, f"{value:%Y-%m-%d %H:%M:%S}")
            case _:
                table.add_row(name, visible(value))
    return table


def _last_lines(found: Explanation) -> Iterator[str]:
    yield "happened: by the sender's clock (UTC)"
    for finding in found.findings:
        yield f"finding: {finding.kind}: {finding.message}"
    if found.log_begins_at is not None:
        yield f"what was applied before {found.log_begins_at:%Y-%m-%d} was dropped from the log"
    if found.unreadable:
        yield f"events of the log that cannot be read any more, and are missing above: {found.unreadable}"
    if found.agrees is False:
        yield "the tables say otherwise: see `stockhook rebuild`"


def _told(step: Step) -> Iterator[str]:
    logged = step.logged
    yield f"{logged.type}  {logged.event.event_id}"
    yield f"{step.effect}: {step.why}"
    yield from _said(step)
    received = _leg(logged.event.received_at - logged.event.payload.occurred_at)
    applied = _leg(logged.applied_at - logged.event.received_at)
    yield f"received after {received}, applied {applied} later, attempt {logged.attempt}"


def _said(step: Step) -> Iterator[str]:
    for path, (old, new) in step.changes.items():
        if path.rpartition(".")[2] in OF_THE_EVENT:
            continue
        yield f"{path}: {new}" if old is None else f"{path}: {old} -> {new}"
    for finding in step.findings:
        yield f"finding: {finding.kind}: {finding.message}"
    for finding in step.withdrawn:
        yield f"finding withdrawn: {finding.kind}: {finding.message}"
    for kind in step.communications:
        yield f"calls for {kind}"


def _leg(duration: timedelta) -> str:
    seconds = duration.total_seconds()
    return f"{seconds:.3f} s" if abs(seconds) < 60 else str(duration).partition(".")[0]
