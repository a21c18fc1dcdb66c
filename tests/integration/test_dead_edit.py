"""After any end of `stockhook dead edit`, no decrypted body stays in a file."""

import asyncio
import json
import os
import signal
import stat
from pathlib import Path

import pytest

from tests.support.stack import Stack, Worker, until
from worker.dead_letters import plaintext

INSERT_LETTER = """
INSERT INTO dead_letters (message_key, origin, event_id, provider, type, reason, fingerprint, attempts,
    headers, body)
VALUES (gen_random_uuid(), 'orders', gen_random_uuid(), 'ovoko', 'order.created', 'invalid', 'f', 1, '{}', $1)
RETURNING dead_letter_id
"""
BODY = json.dumps({"event_type": "order.created", "name": "Jane Canary"}).encode()

# Creates a backup as editors do, prints its path, and waits.
EDITOR = """#!/bin/sh
cp "$1" "$1~"
cp "$1" "$TMPDIR/.event.json.swp"
echo "$1 $$" >"{said}.new"
mv "{said}.new" "{said}"
exec sleep 600
"""


async def editing(stack: Stack) -> tuple[Worker, Path, int]:
    """The command with an open editor, the edited file, and the editor's process."""
    [letter] = await stack.fetch(INSERT_LETTER, BODY)
    said = stack.folder / "said"
    script = stack.folder / "editor"
    script.write_text(EDITOR.format(said=said))
    script.chmod(0o700)
    command = stack.start("dead", "edit", str(letter["dead_letter_id"]), EDITOR=str(script), VISUAL="")

    async def is_open() -> bool:
        return said.exists()

    await until(is_open, "the editor is open", 60)
    file, pid = said.read_text().split()
    return command, Path(file), int(pid)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
async def test_a_signal_leaves_no_decrypted_body(stack: Stack, number: signal.Signals) -> None:
    command, file, editor = await editing(stack)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)]
    shown = file.read_bytes()
    command.signal(number)
    code = await asyncio.to_thread(command.wait)

    assert shown == BODY
    assert modes == [0o600, 0o700]
    assert code == 128 + number
    assert not file.parent.exists()
    assert not is_running(editor)
    assert "Traceback" not in command.lines()
    if plaintext._is_in_memory(Path("/dev/shm")):
        assert plaintext._is_in_memory(file.parent.parent)


async def test_the_next_command_removes_the_files_of_a_killed_one(stack: Stack) -> None:
    command, file, editor = await editing(stack)
    listed_meanwhile = stack.run("dead", "list")
    stays = file.exists()
    command.signal(signal.SIGKILL)
    command.wait()
    os.kill(editor, signal.SIGKILL)
    left = file.exists()
    listed = stack.run("dead", "list")

    assert (stays, left) == (True, True)
    assert (listed_meanwhile.returncode, listed.returncode) == (0, 0)
    assert not file.parent.exists()
