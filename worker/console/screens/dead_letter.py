"""One dead letter: what is known of it, its body without customer data, and what can be done with it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from consumers.registry import FAMILIES
from worker.console.addresses import entity_path
from worker.console.contract import Console, NotThere, Parameters
from worker.console.row_ids import row_id
from worker.dead_letters import edit as editing
from worker.dead_letters import store
from worker.dead_letters.body_diff import DiffLine, repair_diff
from worker.dead_letters.dry_run import outcome_of as dry_run_outcome
from worker.dead_letters.json_repair import Repair
from worker.dead_letters.message import QUARANTINE_ORIGIN, is_of_webhook
from worker.dead_letters.replay_message import PUBLISH_SECONDS
from worker.dead_letters.shown_body import shown_body
from worker.dead_letters.store import NoSuchLetter, State, StoredLetter

# Attempts that are listed one by one.
MOST_ATTEMPTS = 20

# A letter that comes back may be stored before the audit trail has its replay: publishing comes first.
REPLAY_MARGIN = timedelta(seconds=PUBLISH_SECONDS + 5)


@dataclass(frozen=True, slots=True)
class Moment:
    """One step on the way of a message. `at` and `note` are None if they are not recorded."""

    what: str
    at: datetime | None
    note: str | None = None
    is_failure: bool = False


@dataclass(frozen=True, slots=True)
class DeadLetterScreen:
    """`body` and `original_body` have no customer data; `repair` names the edits of a proposed repair.

    `outcome` says in a sentence what the letter's state means; `looks` is the kind of its badge.
    """

    dead_letter_id: int
    state: str
    looks: str
    outcome: str
    origin: str
    provider: str | None
    type: str | None
    event_id: UUID
    entity_id: str | None
    entity_path: str | None
    provenance: str | None
    evidence: Mapping[str, str] | None
    reason: str
    exception: str | None
    fingerprint: str
    attempts: int
    received_at: datetime | None
    first_failed_at: datetime | None
    last_failed_at: datetime | None
    arrived_at: datetime
    bytes: int
    is_changed: bool
    replayed_as: UUID | None
    replay_of: int | None
    came_back_as: tuple[int, ...]
    timeline: tuple[Moment, ...]
    history: tuple[Mapping[str, Any], ...]
    headers: Mapping[str, Any]
    repair: tuple[str, ...]
    repair_diff: tuple[DiffLine, ...] | None
    body: str
    original_body: str | None


@dataclass(frozen=True, slots=True)
class DryRunScreen:
    """`would_be` is what a replay would do against today's rows; None if the state allows no replay."""

    dead_letter_id: int
    state: str
    origin: str
    event_id: UUID
    would_be: str | None


async def view(console: Console, parameters: Parameters) -> DeadLetterScreen:
    """Raises: NotThere."""
    letter = await letter_at(console, parameters)
    async with console.database.connection() as connection:
        actions = await store.history(connection, letter.dead_letter_id)
        back = [
            row["dead_letter_id"] for row in await connection.fetch(store.CAME_BACK, letter.dead_letter_id)
        ]
        is_back = None
        if letter.state in (State.REPLAYING, State.REPLAYED):
            rows = await connection.fetch(
                store.FOLLOW_REPLAY, [letter.dead_letter_id], [_replayed_since(letter, actions)]
            )
            is_back = rows[0]["is_back"] if rows else None
    looks, outcome = outcome_of(letter, is_back, back)
    # A large body takes a while.
    body, proposal, diff, original = await asyncio.to_thread(_bodies, console, letter)
    return DeadLetterScreen(
        dead_letter_id=letter.dead_letter_id,
        state=letter.state,
        looks=looks,
        outcome=outcome,
        origin=letter.origin,
        provider=letter.provider,
        type=letter.type or None,
        event_id=letter.event_id,
        entity_id=letter.entity_id,
        entity_path=path_of_entity(letter),
        provenance=letter.provenance,
        evidence=letter.evidence,
        reason=letter.reason,
        exception=letter.exception,
        fingerprint=letter.fingerprint,
        attempts=letter.attempts,
        received_at=letter.received_at,
        first_failed_at=letter.first_failed_at,
        last_failed_at=letter.last_failed_at,
        arrived_at=letter.arrived_at,
        bytes=len(letter.body),
        is_changed=letter.original_body is not None,
        replayed_as=letter.replayed_as,
        replay_of=letter.replay_of,
        came_back_as=tuple(back),
        timeline=timeline(letter, console.settings.delays),
        history=tuple(actions),
        headers=letter.headers,
        repair=proposal.edits if proposal else (),
        repair_diff=diff,
        body=body,
        original_body=original,
    )


async def dry_run(console: Console, parameters: Parameters) -> DryRunScreen:
    """Raises: NotThere."""
    letter = await letter_at(console, parameters)
    settings = console.settings
    would_be = None
    if letter.state in (State.WAITING, State.REPLAYING):
        would_be = await dry_run_outcome(console.database, letter, settings.encryptor, settings.tolerance)
    return DryRunScreen(letter.dead_letter_id, letter.state, letter.origin, letter.event_id, would_be)


async def letter_at(console: Console, parameters: Parameters) -> StoredLetter:
    """Raises: NotThere."""
    number = id_in(parameters)
    try:
        return await store.get(console.database, number)
    except NoSuchLetter:
        raise NotThere(
            f"There is no dead letter {number}. Retention deletes replayed and discarded ones."
        ) from None


def id_in(parameters: Parameters) -> int:
    """Raises: NotThere."""
    number = row_id(parameters["dead_letter_id"])
    if not number:
        raise NotThere("The id of a dead letter is a number, such as 17.")
    return number


def path_of_entity(letter: StoredLetter) -> str | None:
    """The page of the entity that a family's letter is about."""
    if letter.origin not in FAMILIES or letter.entity_id is None:
        return None
    return entity_path(letter.origin, letter.entity_id)


def _bodies(
    console: Console, letter: StoredLetter
) -> tuple[str, Repair | None, tuple[DiffLine, ...] | None, str | None]:
    encryptor = console.settings.encryptor
    body, proposal = shown_body(letter, encryptor, reveal=False)
    diff = repair_diff(editing.readable(letter, encryptor), proposal) if proposal else None
    original = original_of(letter)
    shown_original = None if original is None else shown_body(original, encryptor, reveal=False)[0]
    return body, proposal, diff, shown_original


def original_of(letter: StoredLetter) -> StoredLetter | None:
    """The letter before its body was changed; None if it was not."""
    return None if letter.original_body is None else replace(letter, body=letter.original_body)


def _replayed_since(letter: StoredLetter, actions: list[dict[str, Any]]) -> datetime:
    """When a letter that comes back from the latest replay can have arrived at the earliest."""
    since = letter.arrived_at + timedelta(microseconds=1)
    replays = [action["at"] for action in actions if action["action"] == store.Action.REPLAYED]
    return max(since, replays[-1] - REPLAY_MARGIN) if replays else since


def outcome_of(letter: StoredLetter, is_back: bool | None, back: list[int]) -> tuple[str, str]:
    """The badge and the sentence of a state; `is_back` is None while a replay has no outcome."""
    match letter.state, is_back:
        case State.WAITING, _:
            return "waiting", "It waits: replay it, or discard it."
        case State.DISCARDED, _:
            return "discarded", "It was discarded, and stays here until retention deletes it."
        case _, True:
            numbers = f" as {', '.join(map(str, back))}" if back else " as a letter of the same event"
            return "back", f"It was replayed, failed again, and came back{numbers}."
        case _, False:
            return "applied", "It was replayed, and its event is applied."
        case State.REPLAYING, _:
            return "replaying", "A replay of it has not recorded its end. It can be replayed again."
        case _:
            return "replayed", _without_outcome(letter.origin)


def _without_outcome(origin: str) -> str:
    if is_of_webhook(origin):
        return "It was replayed: the change is in the queue of its subscriber, where no outcome is followed."
    if origin == QUARANTINE_ORIGIN:
        return (
            "It was replayed, and is neither applied nor back. An event of a type that no family handles "
            "is then with the unhandled events."
        )
    return "It was replayed, and is neither applied nor back yet."


def timeline(letter: StoredLetter, delays: tuple[timedelta, ...]) -> tuple[Moment, ...]:
    """What is recorded of the message's way. Of attempts only the first and the last one have a time."""
    moments = [Moment("received by the ingest", letter.received_at)] if letter.received_at else []
    if letter.origin == QUARANTINE_ORIGIN:
        moments.append(Moment("sent to the quarantine, without an attempt", None, letter.reason, True))
    else:
        moments += _attempts(letter, delays)
    return (*moments, Moment("stored as a dead letter", letter.arrived_at))


def _attempts(letter: StoredLetter, delays: tuple[timedelta, ...]) -> list[Moment]:
    last = letter.attempts
    if last <= 1:
        at = letter.last_failed_at or letter.first_failed_at
        return [Moment("attempt 1 failed", at, letter.reason, is_failure=True)]
    unknown = "its reason is not recorded: each attempt replaces it"
    moments = [Moment("attempt 1 failed", letter.first_failed_at, unknown, is_failure=True)]
    if last > MOST_ATTEMPTS:
        note = "their times and reasons are not recorded"
        moments.append(Moment(f"attempts 2 to {last - 1} failed", None, note, is_failure=True))
    for attempt in range(2, last + 1) if last <= MOST_ATTEMPTS else (last,):
        if _is_of_schedule(letter, delays):
            seconds = delays[attempt - 2].total_seconds()
            moments.append(Moment(f"waited {seconds:g} s in a retry queue, by today's retry schedule", None))
        if attempt < last:
            note = "its time and reason are not recorded"
            moments.append(Moment(f"attempt {attempt} failed", None, note, is_failure=True))
    at = letter.last_failed_at
    return [*moments, Moment(f"attempt {last} failed", at, letter.reason, is_failure=True)]


def _is_of_schedule(letter: StoredLetter, delays: tuple[timedelta, ...]) -> bool:
    """Whether today's retry schedule can be the one that the message went through."""
    waits = letter.attempts - 1
    if waits > len(delays) or letter.first_failed_at is None or letter.last_failed_at is None:
        return False
    return letter.last_failed_at - letter.first_failed_at >= sum(delays[:waits], timedelta())
