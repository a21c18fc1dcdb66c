"""Who did what to a dead letter, for the record."""

import os
import pwd
import socket

import structlog

from worker.dead_letters import store
from worker.dead_letters.store import Action
from worker.postgres.pool import Database

log = structlog.get_logger(__name__)


def who() -> str:
    """By the process, not by the environment, which anybody may set."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


async def note_revealed(database: Database, dead_letter_id: int, who: str, reason: str | None) -> None:
    """To be called before anything is shown."""
    async with database.transaction() as connection:
        await store.note(connection, [dead_letter_id], who, Action.REVEALED, reason)
    log.warning("dead_letter.revealed", dead_letter=dead_letter_id, who=who)


async def was_revealed(database: Database, dead_letter_id: int, who: str) -> bool:
    """Whether the audit trail has that this person read the body."""
    async with database.connection() as connection:
        return bool(await connection.fetchval(store.WAS_REVEALED, dead_letter_id, who))
