"""`stockhook dead`: find, inspect, repair, replay and discard dead letters."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from cyclopts import App

from schemas.events import read_json
from worker.cli import dead_letter_views as screen
from worker.cli import terminal
from worker.cli.context import Flag, Json, WrongUsage, open_database, print_json
from worker.cli.dead_letter_filter import ANY, Filter
from worker.cli.replay import print_dry_run, run_replay
from worker.cli.startup import load_context, traced
from worker.cli.terminal import say
from worker.config.settings import Settings
from worker.dead_letters import edit as editing
from worker.dead_letters import search, store
from worker.dead_letters.audit_trail import note_revealed, who
from worker.dead_letters.change import accept_repair, change, in_editor, require_waiting
from worker.dead_letters.change import discard as discard_letters
from worker.dead_letters.json_repair import fault, repair
from worker.dead_letters.plaintext import remove_leftovers
from worker.dead_letters.refusal import CommandRefused
from worker.dead_letters.search import Selection
from worker.dead_letters.shown_body import shown_body
from worker.dead_letters.store import Action, State
from worker.observability.resolver import run_loop

dead = App(name="dead", help="Find, inspect, repair, replay and discard dead letters.")


@dead.command(name="list")
def list_(
    filter: Filter = ANY,
    *,
    state: Literal["waiting", "replaying", "replayed", "discarded", "any"] = "waiting",
    group: Flag = False,
    limit: int = 100,
    json: Json = False,
) -> None:
    """List dead letters, the oldest first; no customer data is shown.

    Parameters
    ----------
    state
        By default, those that wait.
    group
        One row per kind of failure.
    limit
        Maximum number of letters.
    """
    remove_leftovers()
    selection = filter.selection(None if state == "any" else (State(state),))
    settings = load_context("dead")
    run_loop(_list_groups(settings, selection, json) if group else _list(settings, selection, limit, json))


async def _list(settings: Settings, selection: Selection, limit: int, json: bool) -> None:
    async with open_database(settings, "dead") as database, database.connection() as connection:
        letters = await search.select(connection, selection, limit=max(1, limit))
        total = await search.count(connection, selection)
    if json:
        print_json([screen.as_json(letter) for letter in letters])
        return
    terminal.show(screen.letters_as_table(letters), f"{len(letters):,} of {total:,}")


async def _list_groups(settings: Settings, selection: Selection, json: bool) -> None:
    async with open_database(settings, "dead") as database, database.connection() as connection:
        groups = await search.groups(connection, selection)
    if json:
        print_json(groups)
    else:
        terminal.show(screen.groups_as_table(groups))


@dead.command
def show(dead_letter_id: int, /, *, reveal: Flag = False, json: Json = False) -> None:
    """Show a dead letter; its body without customer data.

    Parameters
    ----------
    reveal
        Show the body with customer data. The log and the letter's history record who did so.
    """
    remove_leftovers()
    run_loop(_show(load_context("dead"), dead_letter_id, reveal, json))


async def _show(settings: Settings, dead_letter_id: int, reveal: bool, json: bool) -> None:
    async with open_database(settings, "dead") as database:
        letter = await store.get(database, dead_letter_id)
        body, proposal = shown_body(letter, settings.encryptor, reveal=reveal)
        if reveal:
            await note_revealed(database, dead_letter_id, who(), None)
        async with database.connection() as connection:
            history = await store.history(connection, dead_letter_id)
    if json:
        repairs = list(proposal.edits) if proposal else []
        print_json({**screen.as_json(letter), "repair": repairs, "history": history, "body": body})
        return
    for line in (*screen.as_lines(letter), *map(screen.action_as_line, history)):
        say(line)
    for url in settings.trace_urls(letter.evidence):
        say(f"trace            {url}")
    if proposal:
        say(f"repair           {'; '.join(proposal.edits)}")
        say(f"                 to accept it: stockhook dead repair {dead_letter_id} --accept")
    say("body" if reveal else "body, without customer data (--reveal shows it)")
    say(body, keep="\n\t")


@dead.command(name="repair")
def repair_(dead_letter_id: int, /, *, accept: Flag = False, json: Json = False) -> None:
    """Propose the smallest repair of a body that is not JSON: a comma, a byte order mark.

    Exits 1 if there is none.

    Parameters
    ----------
    accept
        Apply the repair. The original body is stored, too.
    """
    remove_leftovers()
    run_loop(_repair(load_context("dead"), dead_letter_id, accept, json))


async def _repair(settings: Settings, dead_letter_id: int, accept: bool, json: bool) -> None:
    async with open_database(settings, "dead") as database:
        letter = await store.get(database, dead_letter_id)
        body = editing.readable(letter, settings.encryptor)
        proposal = repair(body)
        if proposal is None:
            raise CommandRefused(f"no repair is known for this body: {_state_of(body)}")
        if accept:
            await accept_repair(database, letter, proposal, settings.encryptor, who())
    if json:
        print_json({"dead_letter_id": dead_letter_id, "edits": proposal.edits, "accepted": accept})
        return
    for edit in proposal.edits:
        say(edit)
    say("repaired" if accept else f"to accept it: stockhook dead repair {dead_letter_id} --accept")


def _state_of(body: bytes) -> str:
    try:
        read_json(body)
    except ValueError:
        return fault(body)
    return "it is JSON"


@dead.command
def edit(dead_letter_id: int, /, *, reason: str | None = None) -> None:
    """Open the body in $VISUAL or $EDITOR, check it against its schema, and store it beside the original.

    It is shown with its customer data. The letter's history records this, and the edit.

    Parameters
    ----------
    reason
        Why, for the record.
    """
    remove_leftovers()
    _edit(load_context("dead"), dead_letter_id, _editor(), reason)


def _editor() -> list[str]:
    """Raises: WrongUsage."""
    setting = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ""
    try:
        command = shlex.split(setting)
    except ValueError:
        raise WrongUsage(f"EDITOR must be a command (given: {setting!r})") from None
    if not command:
        raise WrongUsage("set EDITOR: it opens the body")
    return command


def _edit(settings: Settings, dead_letter_id: int, editor: Sequence[str], reason: str | None) -> None:
    letter, body = run_loop(_to_edit(settings, dead_letter_id))
    # Not in an event loop, so that a signal can end the wait for the editor.
    edited = in_editor(editor, body)
    if edited == body:
        say("nothing was changed")
        return
    run_loop(_save_edit(settings, letter, edited, reason))
    say("edited")


async def _to_edit(settings: Settings, dead_letter_id: int) -> tuple[store.StoredLetter, bytes]:
    async with open_database(settings, "dead") as database:
        letter = await store.get(database, dead_letter_id)
        require_waiting(letter)
        body = editing.readable(letter, settings.encryptor)
        await note_revealed(database, dead_letter_id, who(), "to edit it")
        return letter, body


async def _save_edit(
    settings: Settings, letter: store.StoredLetter, edited: bytes, reason: str | None
) -> None:
    async with open_database(settings, "dead") as database:
        await change(database, letter, edited, settings.encryptor, Action.EDITED, who(), reason)


@dead.command
def discard(*dead_letter_ids: int, reason: str, json: Json = False) -> None:
    """Mark dead letters as discarded. They stay in the table.

    Parameters
    ----------
    reason
        Why, for the record.
    """
    remove_leftovers()
    if not dead_letter_ids or not reason.strip():
        raise WrongUsage("give the ids of dead letters, and a reason")
    run_loop(_discard(load_context("dead"), dead_letter_ids, reason, json))


async def _discard(settings: Settings, ids: Sequence[int], reason: str, json: bool) -> None:
    async with open_database(settings, "dead") as database:
        discarded = await discard_letters(database, ids, who(), reason)
    left = sorted(set(ids) - set(discarded))
    if json:
        print_json({"discarded": discarded, "left": left})
    else:
        say(f"discarded {len(discarded):,}")
    if left:
        raise CommandRefused(f"these do not wait, or do not exist: {', '.join(map(str, left))}")


@dead.command(name="replay")
def replay_(
    *dead_letter_ids: int,
    filter: Filter = ANY,
    all: Flag = False,
    dry_run: Flag = False,
    rate: float = 50.0,
    why: str | None = None,
    json: Json = False,
) -> None:
    """Send dead letters to their family again, as first attempts. Events that were applied stay applied.

    To continue after an interruption, repeat the command. It stops if most letters fail again. Exits 1 in
    that case, or if any letter came back or could not be sent.

    Parameters
    ----------
    dead_letter_ids
        The ids; or use a filter.
    all
        All letters that wait.
    dry_run
        Show what each letter would do against today's rows; send nothing.
    rate
        Maximum number of letters per second.
    why
        Why, for the record.
    """
    remove_leftovers()
    if not dead_letter_ids and filter.is_empty and not all:
        raise WrongUsage("no letters are selected: give ids, a filter such as --fingerprint, or --all")
    if not 0 < rate <= 10_000:
        raise WrongUsage(f"--rate must be more than 0, at most 10000 (given: {rate:g})")
    selection = replace(
        filter.selection((State.WAITING, State.REPLAYING)), ids=tuple(dead_letter_ids) or None
    )
    settings = load_context("dead")
    if dry_run:
        run_loop(print_dry_run(settings, selection, json))
    else:
        with traced(settings, "replay"):
            code = run_loop(run_replay(settings, selection, rate, why, json))
        sys.exit(code)
