"""Synchronous commits that wait, while asynchronous ones go on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.support.stack import until
from worker.postgres.durability import WRITE_TO_LOG

IS_WAITING = "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $1"
RELOAD = "SELECT pg_reload_conf()"


@asynccontextmanager
async def commits_wait(url: str) -> AsyncIterator[None]:
    """Synchronous commits of this server wait for a standby that does not exist, until the context ends."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'missing'")
        await connection.execute(RELOAD)
        await until(lambda: _waits(url, connection), "commits wait")
        yield
    finally:
        await connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await connection.execute(RELOAD)
        await connection.close()


async def _waits(url: str, connection: asyncpg.Connection) -> bool:
    """Whether a commit waits: the server obeys a while after it has read its settings."""
    probe = await asyncpg.connect(url)
    committing = asyncio.create_task(probe.execute(WRITE_TO_LOG))
    try:
        while not committing.done():
            if await connection.fetchval(IS_WAITING, probe.get_server_pid()):
                return True
            await asyncio.sleep(0.01)
        return False
    finally:
        probe.terminate()
        await asyncio.wait([committing])
        committing.exception()
