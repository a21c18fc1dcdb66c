"""Search by an id: where the entity, event, dead letter or request with this id is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode
from uuid import UUID

from consumers.family import Connection
from worker.console.addresses import entity_path, letter_path
from worker.console.contract import Console, Elsewhere, Parameters
from worker.console.row_ids import row_id
from worker.outbox import action_list
from worker.tools.explain.lookup import (
    APPLIED_WITHIN,
    NEWEST_LETTERS,
    WINDOW,
    Letter,
    Partition,
    entities_by_event,
    events_by_gateway_id,
    families_with,
    letter_by_id,
    letters_about,
    newest_seq,
    partitions,
    receptions_of_event,
    searching,
)

MOST_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class Hit:
    """What has the id, and its page. `detail` is foreign text."""

    kind: str
    name: str
    path: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SearchScreen:
    """`remarks` say how far the search went; at `older_path` it goes on."""

    query: str
    hits: tuple[Hit, ...]
    remarks: tuple[str, ...] = ()
    older_path: str | None = None


async def view(console: Console, parameters: Parameters) -> SearchScreen | Elsewhere:
    query = parameters.get("q", "").strip()
    if not query:
        return SearchScreen("", ())
    if len(query) > MOST_CHARACTERS:
        shown = f"{query[:40]}…"
        return SearchScreen(shown, (), (f"An id has at most {MOST_CHARACTERS} characters.",))
    if "\0" in query:
        return SearchScreen(query, (), ("No id has a NUL character.",))
    last, fault = _last(parameters.get("before"))
    async with searching(console.database) as connection:
        listed = await partitions(connection)
        if last is not None:
            return await _by_gateway_id(connection, listed, query, last, fault)
        hits, remarks = await _exact(connection, listed, query)
        if not hits:
            newest = await newest_seq(connection, listed)
            screen = await _by_gateway_id(connection, listed, query, newest, fault, remarks)
        else:
            screen = SearchScreen(query, tuple(hits), (*fault, *remarks))
    # What was searched in part may have more.
    if len(screen.hits) == 1 and not screen.remarks:
        return Elsewhere(screen.hits[0].path, screen)
    return screen


def _last(text: str | None) -> tuple[int | None, tuple[str, ...]]:
    """The sequence number at which the search in the log starts."""
    if text is None:
        return None, ()
    seq = row_id(text)
    if seq is not None:
        return seq, ()
    return None, ("The parameter before is not a sequence number: the newest events were searched.",)


async def _exact(
    connection: Connection, listed: Sequence[Partition], query: str
) -> tuple[list[Hit], list[str]]:
    """By indexes: entities, a dead letter, an event, an action."""
    hits = [
        Hit(family.entity, query, entity_path(family.name, query))
        for family in await families_with(connection, query)
    ]
    remarks: list[str] = []
    dead_letter_id = row_id(query)
    if dead_letter_id is not None:
        letter = await letter_by_id(connection, dead_letter_id)
        hits += [] if letter is None else [_letter_hit(letter)]
    event_id = _uuid(query)
    if event_id is not None:
        event_hits, remarks = await _by_event_id(connection, listed, event_id)
        hits += event_hits
        hits += [
            Hit(f"action {action['kind']}", str(event_id), f"/actions/{event_id}")
            for action in await action_list.listed(connection, [event_id])
        ]
    return hits, remarks


async def _by_event_id(
    connection: Connection, listed: Sequence[Partition], event_id: UUID
) -> tuple[list[Hit], list[str]]:
    receptions = await receptions_of_event(connection, event_id)
    if not receptions:
        return [], []
    entities = {
        (family.name, entity_id): Hit(
            f"event of the {family.entity} {entity_id}",
            str(event_id),
            f"{entity_path(family.name, entity_id)}#event-{event_id}",
        )
        for received_at in receptions
        for family, entity_id in await entities_by_event(connection, listed, event_id, received_at)
    }
    if len(entities) < len(receptions):
        return list(entities.values()), [
            "An event with this id was applied, but it is not among the "
            f"{APPLIED_WITHIN:,} events that were applied after its reception, or the log no longer has it."
        ]
    return list(entities.values()), []


async def _by_gateway_id(
    connection: Connection,
    listed: Sequence[Partition],
    query: str,
    last: int,
    fault: Sequence[str],
    remarks: Sequence[str] = (),
) -> SearchScreen:
    """In the evidence of events and dead letters; of these also by entity and event."""
    events = {
        (hit.family, hit.entity_id, hit.event_id): Hit(
            f"{hit.type}, {hit.entity_id}",
            str(hit.event_id),
            f"{entity_path(hit.family, hit.entity_id)}#event-{hit.event_id}",
            f"applied {hit.applied_at:%Y-%m-%d %H:%M:%S} UTC",
        )
        for hit in await events_by_gateway_id(connection, listed, query, last)
    }
    letters = [_letter_hit(letter) for letter in await letters_about(connection, query, _uuid(query))]
    first = max(1, last - WINDOW + 1)
    bound = (
        "Ids of a gateway, a proxy or a trace have no index. This search covered the sequence numbers "
        f"{first:,} to {last:,} of the event log, and the newest {NEWEST_LETTERS:,} dead letters."
    )
    older = f"/search?{urlencode({'q': query, 'before': first - 1})}" if first > 1 else None
    return SearchScreen(query, (*events.values(), *letters), (*fault, *remarks, bound), older)


def _letter_hit(letter: Letter) -> Hit:
    name = f"dead letter {letter.dead_letter_id}"
    return Hit(f"{name}, {letter.state}", letter.type, letter_path(letter.dead_letter_id), f"{letter.reason}")


def _uuid(query: str) -> UUID | None:
    try:
        return UUID(query)
    except ValueError:
        return None
