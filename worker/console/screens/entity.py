"""One entity: its events in the order of happening, what each did and why, and its rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from consumers.registry import FAMILIES, AnyFamily
from worker.console.addresses import entity_in, entity_path, with_query
from worker.console.contract import Console, NotThere, Parameters
from worker.console.row_ids import row_id
from worker.console.sentences import as_sentence
from worker.dead_letters.criteria import BadCriterion, instant_of
from worker.tools.explain.data import explanation_data
from worker.tools.explain.explanation import NoSuchEntity, explain_entity
from worker.tools.explain.lookup import (
    NEWEST_LETTERS,
    Letter,
    LoggedEvent,
    Row,
    count_events,
    families_with,
    findings_of,
    latest_events,
    letters_of,
    reading_by_time,
    rows_of,
)

# To say what each event did, all events of the entity are replayed, and a part compares each with those
# before it: 150 take about 0.05 s with their page, 250 more than 0.1 s.
MOST_REPLAYED = 150

# Of a history that is too long for this.
PER_PAGE = 100


@dataclass(frozen=True, slots=True)
class Other:
    """Another family that has an entity with this id."""

    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class EntityScreen:
    """`explanation` is what `stockhook explain --json` prints. It is None if there are more events than
    `most_replayed`, or none by then: `log_events` has those of one page instead, the last to happen first.

    `findings` are stored ones, of a history that is not replayed. `rows` are those of now, whatever `at` is.
    """

    family: str
    kind: str
    entity_id: str
    path: str
    at: datetime | None
    faults: tuple[str, ...]
    explanation: dict[str, Any] | None
    log_events: tuple[LoggedEvent, ...]
    findings: tuple[dict[str, Any], ...]
    rows: tuple[Row, ...]
    letters: tuple[Letter, ...]
    letters_searched: int
    others: tuple[Other, ...]
    is_long: bool
    most_replayed: int
    first_path: str | None
    older_path: str | None


async def view(console: Console, parameters: Parameters) -> EntityScreen:
    """Raises: NotThere."""
    family = FAMILIES.get(parameters["family"])
    if family is None:
        raise NotThere(f"There is no family {parameters['family'][:100]}.")
    entity_id = _entity_id(family, parameters["entity"])
    at, at_fault = read_instant(parameters.get("at", ""))
    before, before_fault = read_place(parameters.get("before", ""))
    faults = [*at_fault, *before_fault]
    tolerance = console.settings.tolerance

    async with console.database.connection() as connection:
        events = await count_events(connection, family, entity_id, MOST_REPLAYED + 1)
        rows = await rows_of(connection, family, entity_id)
        letters = await letters_of(connection, family, entity_id)
        if not events and not rows and not letters:
            raise NotThere(f"There is no {family.entity} {entity_id[:200]}.")
        families = await families_with(connection, entity_id)
    is_long = events > MOST_REPLAYED
    log_events: list[LoggedEvent] = []
    findings: list[dict[str, Any]] = []
    if is_long:
        async with reading_by_time(console.database) as connection:
            log_events = await latest_events(
                connection, family, entity_id, tolerance, PER_PAGE + 1, at, before
            )
            findings = await findings_of(connection, family, entity_id)
    explanation = None
    if not events and not rows:
        faults.append(f"No event of this {family.entity} is applied: its dead letters are below.")
    elif not events:
        faults.append("The event log no longer has events of it.")
    elif not is_long:
        try:
            explanation = explanation_data(
                await explain_entity(console.database, family, entity_id, at, tolerance)
            )
        except NoSuchEntity as error:
            faults.append(as_sentence(str(error)))
    path = entity_path(family.name, entity_id)
    page = log_events[:PER_PAGE]
    return EntityScreen(
        family=family.name,
        kind=family.entity,
        entity_id=entity_id,
        path=path,
        at=at,
        faults=tuple(faults),
        explanation=explanation,
        log_events=tuple(page),
        findings=tuple(findings),
        rows=tuple(rows),
        letters=tuple(letters),
        letters_searched=NEWEST_LETTERS,
        others=tuple(
            Other(other.entity, entity_path(other.name, entity_id)) for other in families if other != family
        ),
        is_long=is_long,
        most_replayed=MOST_REPLAYED,
        first_path=None if before is None else with_query(path, {"at": _iso(at)}),
        older_path=_older_path(path, at, page) if len(log_events) > PER_PAGE else None,
    )


def _entity_id(family: AnyFamily, segment: str) -> str:
    """Raises: NotThere."""
    try:
        entity_id = entity_in(segment)
    except ValueError:
        raise NotThere(f"This address names no {family.entity}: it is not UTF-8.") from None
    # No text in the database has this character.
    if "\0" in entity_id:
        raise NotThere(f"There is no {family.entity} with a NUL character in its id.")
    return entity_id


def read_instant(text: str) -> tuple[datetime | None, list[str]]:
    """The instant, or why the text is none."""
    if not text:
        return None, []
    try:
        return instant_of(text.strip(), datetime.now(UTC)), []
    except BadCriterion:
        return None, [f"{text[:40]} is not a time such as 2026-03-01T12:00: the whole history is shown."]


def read_place(text: str) -> tuple[tuple[datetime, int] | None, list[str]]:
    """Where the page before this one ended: the timestamp of its last event, and its sequence number."""
    if not text:
        return None, []
    stated, _, number = text.rpartition(",")
    instant, fault = read_instant(stated)
    seq = row_id(number)
    if instant is None or fault or seq is None:
        return None, ["The parameter before is malformed: the last events are shown."]
    return (instant, seq), []


def _older_path(path: str, at: datetime | None, page: Sequence[LoggedEvent]) -> str:
    last = page[-1]
    return with_query(path, {"at": _iso(at), "before": f"{_iso(last.occurred_at)},{last.seq}"})


def _iso(instant: datetime | None) -> str | None:
    return None if instant is None else instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
