"""`stockhook explain`: an explanation as tables, or as JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from rich.console import Group, RenderableType
from rich.table import Table

from consumers.details import Details
from consumers.registry import FAMILY_OF_ENTITY
from worker.cli.context import Json, WrongUsage, open_database, print_json
from worker.cli.families import Entity
from worker.cli.startup import load_context
from worker.cli.terminal import show
from worker.config.settings import Settings
from worker.observability.inert_text import visible
from worker.observability.resolver import run_loop
from worker.tools.explain.data import explanation_data, repeats_the_event
from worker.tools.explain.explanation import (
    Explanation,
    Step,
    entities_by_gateway_id,
    explain_entity,
)


def explain(
    entity: Entity | None = None,
    entity_id: str | None = None,
    /,
    *,
    gateway_id: str | None = None,
    at: datetime | None = None,
    json: Json = False,
) -> None:
    """Show the history of an entity: each of its events, its effect, and the rule that applied.

    Events are listed in the order in which they happened, each with the changes that it made when it was
    applied. Exits 1 if the log holds no event of the entity.

    With --gateway-id, show the entities of the events whose request has this gateway id; --json then prints
    one line per entity.

    Parameters
    ----------
    entity_id
        Its id on the marketplace; for reminders, the id of their order.
    gateway_id
        An id or URL of the gateway (event, request), the proxy's x-request-id, or the id of a trace. The
        whole log is read.
    at
        Show the state at this time: omit what happened later. Without an offset it is UTC.
    """
    settings = load_context("explain")
    if at is not None and at.tzinfo is None:
        at = at.replace(tzinfo=UTC)

    named = None if entity is None or entity_id is None else (FAMILY_OF_ENTITY[entity], entity_id)
    if (named is None) == (gateway_id is None) or (entity is not None and entity_id is None):
        raise WrongUsage("name an entity and its id, or give --gateway-id")

    async def work() -> list[Explanation]:
        async with open_database(settings, "explain", 1, no_timeouts=named is None) as database:
            entities = [named] if named else await entities_by_gateway_id(database, str(gateway_id))
            return [
                await explain_entity(database, family, its_id, at, settings.tolerance)
                for family, its_id in entities
            ]

    for explanation in run_loop(work()):
        if json:
            print_json(explanation_data(explanation))
        else:
            show(_as_tables(explanation, settings))


def _as_tables(explanation: Explanation, settings: Settings) -> RenderableType:
    # Two columns: of more, a terminal of 80 shows a few letters each.
    events = Table("happened", "event, and what it did")
    for step in explanation.steps:
        events.add_row(
            f"{step.logged.event.payload.occurred_at:%Y-%m-%d %H:%M:%S}",
            "\n".join(map(visible, (*_step_lines(step), *settings.trace_urls(step.logged.evidence)))),
        )
        events.add_section()
    moment = "now" if explanation.at is None else f"at {explanation.at.isoformat()}"
    states = Table("column", f"state {moment}")
    for state in explanation.states:
        for path, value in state.items():
            states.add_row(visible(path), visible(value))
        states.add_section()
    details = [] if explanation.details is None else [_details(explanation.details)]
    return Group(events, states, *details, *map(visible, _last_lines(explanation)))


def _details(details: Details) -> Table:
    table = Table("column", "answer of the marketplace's API")
    for name, value in asdict(details).items():
        match value:
            case None:
                continue
            case tuple():
                for item in value:
                    table.add_section()
                    for column, column_value in item.items():
                        if column_value is not None:
                            table.add_row(f"item.{column}", visible(column_value))
            case datetime():
                table.add_row(name, f"{value:%Y-%m-%d %H:%M:%S}")
            case _:
                table.add_row(name, visible(value))
    return table


def _last_lines(explanation: Explanation) -> Iterator[str]:
    yield "times in the column happened are those of the sender's clock, in UTC"
    for finding in explanation.findings:
        yield f"finding: {finding.kind}: {finding.message}"
    if explanation.log_begins_at is not None:
        yield f"events applied before {explanation.log_begins_at:%Y-%m-%d} were dropped from the log"
    if explanation.unreadable:
        yield f"events that this release cannot read, and that are missing above: {explanation.unreadable}"
    if explanation.agrees is False:
        yield "the tables hold a different state: see `stockhook rebuild`"


def _step_lines(step: Step) -> Iterator[str]:
    logged = step.logged
    yield f"{logged.type}  {logged.event.event_id}"
    yield f"{step.effect}: {step.why}"
    yield from _effect_lines(step)
    received = _duration(logged.event.received_at - logged.event.payload.occurred_at)
    applied = _duration(logged.applied_at - logged.event.received_at)
    yield f"received after {received}, applied {applied} later, attempt {logged.attempt}"
    for name, value in logged.evidence.items():
        yield f"{name.replace('_', ' ')}: {value}"


def _effect_lines(step: Step) -> Iterator[str]:
    for path, (old, new) in step.changes.items():
        if repeats_the_event(path):
            continue
        yield f"{path}: {new}" if old is None else f"{path}: {old} -> {new}"
    for finding in step.findings:
        yield f"finding: {finding.kind}: {finding.message}"
    for finding in step.withdrawn:
        yield f"finding withdrawn: {finding.kind}: {finding.message}"
    for kind in step.communications:
        yield f"requires the communication {kind}"


def _duration(duration: timedelta) -> str:
    seconds = duration.total_seconds()
    return f"{seconds:.3f} s" if abs(seconds) < 60 else str(duration).partition(".")[0]
