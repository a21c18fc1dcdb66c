"""How the body of a dead letter is changed: opened in an editor, checked, kept beside the original."""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cryptography.fernet import MultiFernet

from worker.database import Database
from worker.dead import editing, store
from worker.dead.record import who
from worker.dead.refusal import Refused
from worker.dead.store import Action, Kept, State


def see_that_it_waits(letter: Kept) -> None:
    """Raises: Refused."""
    if letter.state != State.WAITING:
        raise Refused(f"it is {letter.state}, no longer waiting")


def in_editor(command: Sequence[str], body: bytes) -> bytes:
    """The file is ours alone, and gone when the editor is.

    Raises:
        Refused
    """
    with tempfile.TemporaryDirectory(prefix="stockhook-") as folder:
        file = Path(folder, "event.json")
        file.touch(mode=0o600)
        file.write_bytes(body)
        try:
            code = subprocess.run([*command, str(file)], check=False).returncode
        except OSError as error:
            raise Refused(f"cannot start {' '.join(command)}: {error.strerror}") from None
        if code:
            raise Refused(f"the editor ended with {code}: nothing was changed")
        edited = file.read_bytes()
    # Editors end the last line.
    return edited if body.endswith(b"\n") else edited.removesuffix(b"\n")


async def change(
    database: Database,
    letter: Kept,
    body: bytes,
    sealer: MultiFernet | None,
    action: Action,
    reason: str | None,
) -> None:
    """Raises: Refused."""
    see_that_it_waits(letter)
    match editing.checked(letter, body, sealer):
        case editing.Broken(why):
            raise Refused(f"nothing was changed: {why}")
        case editing.Fits() as fits:
            pass
    async with database.transaction() as connection:
        changed = await connection.fetch(
            store.CHANGE_BODY, letter.dead_letter_id, fits.body, letter.body, fits.type, fits.entity_id
        )
        if not changed:
            raise Refused("somebody else changed it meanwhile")
        await store.note(connection, [letter.dead_letter_id], who(), action, reason)
