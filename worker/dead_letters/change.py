"""Changes the body of a dead letter: in an editor, with a check, stored beside the original."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from cryptography.fernet import MultiFernet

from worker.dead_letters import edit as editing
from worker.dead_letters import store
from worker.dead_letters.json_repair import Repair
from worker.dead_letters.plaintext import private_folder, signals_as_exits
from worker.dead_letters.refusal import CommandRefused
from worker.dead_letters.store import Action, State, StoredLetter
from worker.postgres.pool import Database

EDITOR_ENDS_SECONDS = 2.0


def require_waiting(letter: StoredLetter) -> None:
    """Raises: CommandRefused."""
    if letter.state != State.WAITING:
        raise CommandRefused(f"it is {letter.state}, no longer waiting")


def in_editor(command: Sequence[str], body: bytes) -> bytes:
    """Only we can read the file. It is removed when the editor ends, also if a signal ends us.

    Raises:
        CommandRefused
        SystemExit: A signal came.
    """
    # On a terminal these signals are meant for the editor.
    for_editor = (signal.SIGINT, signal.SIGQUIT) if sys.stdin.isatty() else ()
    with signals_as_exits(*for_editor), private_folder() as folder:
        file = folder / "event.json"
        file.touch(mode=0o600)
        file.write_bytes(body)
        try:
            # The editor's own temporary files are in the same folder.
            process = subprocess.Popen([*command, str(file)], env={**os.environ, "TMPDIR": str(folder)})
        except OSError as error:
            raise CommandRefused(f"cannot start {' '.join(command)}: {error.strerror}") from None
        try:
            code = process.wait()
        except SystemExit:
            _end(process)
            raise
        if code:
            raise CommandRefused(f"the editor ended with {code}: nothing was changed")
        try:
            edited = file.read_bytes()
        except OSError as error:
            raise CommandRefused(f"the editor left no file ({error.strerror}): nothing was changed") from None
    # Editors end the last line.
    return edited if body.endswith(b"\n") else edited.removesuffix(b"\n")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Give the editor a moment to restore the terminal."""
    process.terminate()
    try:
        process.wait(EDITOR_ENDS_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def change(
    database: Database,
    letter: StoredLetter,
    body: bytes,
    encryptor: MultiFernet | None,
    action: Action,
    who: str,
    reason: str | None,
) -> None:
    """Raises: CommandRefused."""
    require_waiting(letter)
    match editing.checked(letter, body, encryptor):
        case editing.Broken(why):
            raise CommandRefused(f"nothing was changed: {why}")
        case editing.Fits() as fits:
            pass
    async with database.transaction() as connection:
        changed = await connection.fetch(
            store.CHANGE_BODY, letter.dead_letter_id, fits.body, letter.body, fits.type, fits.entity_id
        )
        if not changed:
            raise CommandRefused("it was changed in the meantime")
        await store.note(connection, [letter.dead_letter_id], who, action, reason)


async def accept_repair(
    database: Database, letter: StoredLetter, proposal: Repair, encryptor: MultiFernet | None, who: str
) -> None:
    """Store the repaired body. The letter's history has the edits as the reason.

    Raises:
        CommandRefused
    """
    edits = "; ".join(proposal.edits)
    await change(database, letter, proposal.body, encryptor, Action.REPAIRED, who, edits)


async def discard(database: Database, ids: Sequence[int], who: str, reason: str) -> list[int]:
    """Discard the letters that wait; returns their ids, in order. They stay in the table."""
    async with database.transaction() as connection:
        return await store.discard(connection, ids, who, reason)
