"""Which server process a session has, and whether a pooler gives it to others too."""

from typing import Any

import asyncpg

# How often we check.
PROBES = 5


async def share_a_backend(session: Any, other: Any) -> bool:
    """A pool by session never shares a backend; a pool by transaction gives the next client a free one."""
    for _ in range(PROBES):
        first = await backend_of(session)
        try:
            await other.execute("BEGIN")
            second = await backend_of(other)
            if first == second or await backend_of(session) != first:
                return True
            await other.execute("ROLLBACK")
        except asyncpg.PostgresError:
            # By statement, there are no transactions.
            return True
    return False


async def backend_of(session: Any) -> int:
    """With an unnamed statement: a named one may belong to another client of the pooler."""
    statement = await session.prepare("SELECT pg_backend_pid()", name="")
    return int(await statement.fetchval())
