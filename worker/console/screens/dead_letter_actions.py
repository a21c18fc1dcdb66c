"""What can be done with one dead letter. Each action is in the letter's history, with the user's name."""

import asyncio
import hashlib
from dataclasses import dataclass, replace
from typing import assert_never

from worker.amqp.errors import BrokerUnavailable, Unroutable
from worker.console.access import Refused
from worker.console.addresses import letter_path
from worker.console.contract import Console, Done, NotThere, Request, Shown
from worker.console.form import LONGEST_REASON, NOTHING_DONE, required_reason
from worker.console.screens.dead_letter import id_in, letter_at, original_of
from worker.dead_letters import change, replay, store
from worker.dead_letters import edit as editing
from worker.dead_letters.audit_trail import note_revealed, was_revealed
from worker.dead_letters.body_diff import DiffLine, edit_diff
from worker.dead_letters.json_repair import repair as repair_of
from worker.dead_letters.refusal import CommandRefused
from worker.dead_letters.shown_body import shown_body
from worker.dead_letters.store import Action, StoredLetter
from worker.intake.encryption import NoUsableKey
from worker.observability.errors import StockhookError, reason_of
from worker.observability.inert_text import visible
from worker.postgres.errors import PostgresError

# One letter: the rate limit is for many.
RATE = 50.0

# Of lines with characters that a page does not show.
MOST_HIDDEN_LINES = 20


@dataclass(frozen=True, slots=True)
class Revealed:
    """The body with customer data, and the original one of a changed letter."""

    dead_letter_id: int
    who: str
    reason: str
    body: str
    original_body: str | None


@dataclass(frozen=True, slots=True)
class EditorPage:
    """`text` is the body in the field. `fault` says why it cannot be stored; `diff` what storing it changes.

    `hidden` are the numbers of lines with characters that a page does not show.
    """

    dead_letter_id: int
    text: str
    body_hash: str
    reason: str
    fault: str | None = None
    verdict: str | None = None
    diff: tuple[DiffLine, ...] = ()
    hidden: tuple[int, ...] = ()


async def repair(console: Console, request: Request) -> Done:
    """Apply the proposed repair. Raises: Refused."""
    letter = await _letter(console, request)
    encryptor = console.settings.encryptor
    try:
        proposal = repair_of(editing.readable(letter, encryptor))
        if proposal is None:
            raise Refused(409, f"No repair is known for the body of dead letter {letter.dead_letter_id}.")
        await change.accept_repair(console.database, letter, proposal, encryptor, request.user.name)
    except (CommandRefused, NoUsableKey) as error:
        raise _refused(letter, error) from error
    return Done(f"Dead letter {letter.dead_letter_id} was repaired. The original body is stored, too.")


async def discard(console: Console, request: Request) -> Done:
    """Raises: Refused."""
    reason = required_reason(request.form)
    letter = await _letter(console, request)
    number = letter.dead_letter_id
    if not await change.discard(console.database, [number], request.user.name, reason):
        raise Refused(409, f"Dead letter {number} was not discarded: it no longer waits.")
    return Done(f"Dead letter {number} was discarded.")


async def replay_letter(console: Console, request: Request) -> Done:
    """Publish the letter, and leave its outcome to the page. Raises: Refused."""
    reason = required_reason(request.form)
    letter = await _letter(console, request)
    number, settings = letter.dead_letter_id, console.settings
    run = replay.Replay(
        console.broker,
        console.database,
        settings.encryptor,
        settings.delays,
        rate=RATE,
        who=request.user.name,
        reason=reason,
    )
    try:
        tally = await run.publish_one(number)
    except replay.AnotherRuns:
        raise Refused(
            409,
            f"Dead letter {number} was not replayed: another replay is running. Repeat this when it ends.",
        ) from None
    except Unroutable:
        raise Refused(
            409,
            f"Dead letter {number} was not replayed: a queue is missing. `stockhook topology` declares it.",
        ) from None
    except BrokerUnavailable as error:
        raise Refused(
            503,
            f"The replay of dead letter {number} is not confirmed: {error.sentence}. Load the page again.",
        ) from error
    if not tally.replayed:
        why = tally.unready[0][1] if tally.unready else "its state allows no replay"
        raise Refused(409, f"Dead letter {number} was not replayed: {why}.")
    return Done(f"Dead letter {number} was replayed.", letter_path(number))


async def reveal(console: Console, request: Request) -> Shown:
    """Raises: Refused."""
    reason = required_reason(request.form)
    letter = await _letter(console, request)
    encryptor, who = console.settings.encryptor, request.user.name
    await note_revealed(console.database, letter.dead_letter_id, who, reason)
    original = original_of(letter)
    return Shown(
        "dead_letter_revealed.html",
        Revealed(
            letter.dead_letter_id,
            who,
            reason,
            shown_body(letter, encryptor, reveal=True)[0],
            None if original is None else shown_body(original, encryptor, reveal=True)[0],
        ),
    )


async def open_editor(console: Console, request: Request) -> Shown:
    """The body in a text field, once the audit trail has who reads it. Raises: Refused."""
    reason = required_reason(request.form)
    letter = await _letter(console, request)
    number = letter.dead_letter_id
    try:
        change.require_waiting(letter)
        body = editing.readable(letter, console.settings.encryptor)
    except (CommandRefused, NoUsableKey) as error:
        raise _refused(letter, error) from error
    text = editing.form_text(body)
    if isinstance(text, editing.NotAText):
        raise Refused(
            409, f"A form cannot carry this body: {text.reason}. Use `stockhook dead edit {number}`."
        )
    await note_revealed(console.database, number, request.user.name, f"to edit it: {reason}")
    return _shown(EditorPage(number, text, _hash(letter), reason))


async def check_edit(console: Console, request: Request) -> Shown:
    """What storing the text would change, and whether it fits its schema. Raises: Refused."""
    page = _sent(request)
    try:
        letter, body, edited = await _compared(console, request, page)
    except (StockhookError, PostgresError) as error:
        return _shown(replace(page, fault=_fault(error)))
    if edited == body:
        return _shown(replace(page, verdict="Nothing was changed."))
    page = replace(page, diff=await asyncio.to_thread(edit_diff, body, edited))
    match editing.checked(letter, edited, console.settings.encryptor):
        case editing.Broken(why):
            return _shown(replace(page, fault=why))
        case editing.Fits(_, event_type, entity_id):
            about = f" about {entity_id}" if entity_id else ""
            only = "" if page.diff else " Only white space differs."
            verdict = f"It fits its schema, as the event {event_type}{about}.{only}"
            return _shown(replace(page, verdict=verdict))
        case unreachable:
            assert_never(unreachable)


async def save_edit(console: Console, request: Request) -> Done | Shown:
    """Store the text beside the original. What is refused stays in the field. Raises: Refused."""
    page = _sent(request)
    number, who = page.dead_letter_id, request.user.name
    try:
        reason = required_reason(request.form)
    except Refused as error:
        return _shown(replace(page, fault=str(error).removeprefix(NOTHING_DONE)))
    try:
        letter, body, edited = await _compared(console, request, page)
        if edited == body:
            return Done(f"Nothing was changed in dead letter {number}.", letter_path(number))
        page = replace(page, diff=await asyncio.to_thread(edit_diff, body, edited))
        await change.change(
            console.database,
            letter,
            edited,
            console.settings.encryptor,
            Action.EDITED,
            who,
            reason,
        )
    except (StockhookError, PostgresError) as error:
        return _shown(replace(page, fault=_fault(error)))
    return Done(f"Dead letter {number} was edited. The original body is stored, too.", letter_path(number))


def _sent(request: Request) -> EditorPage:
    """The page with what the form holds. Raises: Refused."""
    form = request.form
    try:
        number = id_in(request.parameters)
    except NotThere as error:
        raise Refused(404, str(error)) from None
    reason = form.get("reason", "").strip()[:LONGEST_REASON]
    return EditorPage(number, form.get("text", ""), form.get("body_hash", "")[:64], reason)


async def _compared(
    console: Console, request: Request, page: EditorPage
) -> tuple[StoredLetter, bytes, bytes]:
    """The letter, its body, and the body that the form makes of it.

    Raises:
        Refused: The user has not opened the editor; a comparison shows the stored body.
        CommandRefused: The letter was changed, or no longer waits.
        NoSuchLetter
        NoUsableKey
        DatabaseUnavailable
    """
    if not await was_revealed(console.database, page.dead_letter_id, request.user.name):
        raise Refused(403, "Open the editor first: the audit trail has who reads a body.")
    letter = await store.get(console.database, page.dead_letter_id)
    change.require_waiting(letter)
    if page.body_hash != _hash(letter):
        raise CommandRefused("the letter was changed in the meantime: open the editor again")
    body = editing.readable(letter, console.settings.encryptor)
    return letter, body, editing.from_form(page.text, body)


def _shown(page: EditorPage) -> Shown:
    lines = page.text.replace("\r\n", "\n").split("\n")
    hidden = [number for number, line in enumerate(lines, 1) if visible(line, keep="\t\r") != line]
    return Shown("dead_letter_edit.html", replace(page, hidden=tuple(hidden[:MOST_HIDDEN_LINES])))


def _fault(error: StockhookError | PostgresError) -> str:
    return reason_of(error).removeprefix("nothing was changed: ")


async def _letter(console: Console, request: Request) -> StoredLetter:
    """Raises: Refused."""
    try:
        return await letter_at(console, request.parameters)
    except NotThere as error:
        raise Refused(404, str(error)) from None


def _refused(letter: StoredLetter, error: CommandRefused | NoUsableKey) -> Refused:
    return Refused(409, f"Dead letter {letter.dead_letter_id}: {error.sentence}.")


def _hash(letter: StoredLetter) -> str:
    """Of the body as it is stored, to notice a concurrent change."""
    return hashlib.sha256(letter.body).hexdigest()
