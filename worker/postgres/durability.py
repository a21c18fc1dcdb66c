"""Makes asynchronous commits durable. One flush serves every transaction of the process that waits for one.

flush session open -> BEGIN … COMMIT, which waits for no disk -> flush over that session -> ack, publish

Postgres writes its log in one order. A synchronous commit therefore makes every earlier commit on its server
durable, and waits for the synchronous standbys. A crash in between loses the earlier commit and ends all
sessions of the server, even if the postmaster survives it. So a flush counts only if its session was open
before the transaction began, has not been interrupted since, and leads to the same server.

The same holds for what a transaction only read: other transactions may have committed it asynchronously.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any, Self
from weakref import WeakKeyDictionary

import structlog

from worker.observability import metrics
from worker.postgres.failures import DatabaseUnavailable, blameless
from worker.postgres.pool import Connection, Database, Session, commit, session_of

log = structlog.get_logger(__name__)

# The commit of a transaction waits for the disk only if it has an id and wrote to the log: this does both.
WRITE_TO_LOG = "SELECT pg_logical_emit_message(true, 'stockhook', '')"

# A standby has no current position.
READ_LIFE = """
SELECT pg_postmaster_start_time() AS started_at,
    CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END AS timeline
"""


@dataclass(frozen=True, slots=True)
class Life:
    """A server from its start to its end, on one timeline: a session belongs to one."""

    started_at: datetime
    timeline: str | None


class FlushSession:
    """A session that only flushes. Once it is over, no flush of it succeeds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._life: asyncio.Future[Life] = asyncio.get_running_loop().create_future()
        self._requested = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._flushing: list[asyncio.Future[None]] = []
        self._session: Session | None = None
        self._task = asyncio.create_task(self._run(), name="flusher")

    @property
    def is_over(self) -> bool:
        return self._task.done() or (self._session is not None and self._session.is_closed())

    async def life(self) -> Life:
        """Wait until it is open.

        Raises:
            DatabaseUnavailable
        """
        return await asyncio.shield(self._life)

    def flush(self) -> asyncio.Future[None]:
        """Request a flush, which begins now or after the one that is under way; done once it has ended.

        Raises, or the future does:
            DatabaseUnavailable: What was committed before may be lost.
        """
        if self._task.done():
            raise DatabaseUnavailable("the session was lost between commit and flush")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._requested.set()
        return waiter

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        reason = "the flush session was closed"
        try:
            await blameless(self._flush_on_request())
        except DatabaseUnavailable as error:
            reason = str(error)
        finally:
            futures: list[asyncio.Future[Any]] = [self._life, *self._flushing, *self._waiting]
            for future in futures:
                if not future.done():
                    future.set_exception(DatabaseUnavailable(reason))
                    # Who waits for it may have been cancelled.
                    future.exception()

    async def _flush_on_request(self) -> None:
        """Never returns; raises as `Database.connection` does."""
        async with self._database.connection() as connection:
            self._session = session_of(connection)
            self._life.set_result(await read_life(connection))
            while True:
                await self._requested.wait()
                self._requested.clear()
                await self._flush_once(connection)

    async def _flush_once(self, connection: Connection) -> None:
        self._flushing, self._waiting = self._waiting, []
        began = monotonic()
        await commit(connection, WRITE_TO_LOG)
        metrics.FLUSH_SECONDS.observe(monotonic() - began)
        for waiter in self._flushing:
            if not waiter.done():
                waiter.set_result(None)
        self._flushing = []


class Flusher:
    """Begins transactions that a later flush makes durable. The flush session is one of the pool's."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._session: FlushSession | None = None
        self._lives: WeakKeyDictionary[Session, Life] = WeakKeyDictionary()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def connect(self) -> None:
        """Open the flush session, unless it is open.

        Raises:
            DatabaseUnavailable
        """
        await self._open_session()

    @asynccontextmanager
    async def transaction(
        self, *, asynchronously: bool = False
    ) -> AsyncIterator[tuple[Connection, FlushSession]]:
        """A transaction, and the session whose next flush makes durable what it read and committed.

        Raises as `Database.transaction` does.
        """
        session = await self._open_session()
        async with self._database.transaction(asynchronously=asynchronously) as connection:
            if await self._life_of(connection) != await session.life():
                await self._abandon(session)
                raise DatabaseUnavailable("the server was replaced: another one would be flushed")
            yield connection, session

    async def _open_session(self) -> FlushSession:
        """Raises: DatabaseUnavailable."""
        if self._session is None or self._session.is_over:
            earlier, self._session = self._session, FlushSession(self._database)
            if earlier is not None:
                await earlier.close()
        session = self._session
        await session.life()
        return session

    async def _life_of(self, connection: Connection) -> Life:
        """The life of a session never changes, so it is read once."""
        session = session_of(connection)
        life = self._lives.get(session)
        if life is None:
            life = self._lives[session] = await read_life(connection)
        return life

    async def _abandon(self, session: FlushSession) -> None:
        """Close the flush session and the idle ones, because any of them may lead to the wrong server."""
        log.warning("flusher.server_replaced")
        await session.close()
        self._database.close_idle()


async def read_life(connection: Connection) -> Life:
    row = await connection.fetchrow(READ_LIFE)
    assert row is not None
    return Life(row["started_at"], row["timeline"])


async def commit_durably(connection: Connection) -> None:
    """Make the commit of this synchronous transaction wait for the disk even if it changes nothing.

    Without it, a transaction that finds its work done could commit before that work is durable.
    """
    await connection.execute(WRITE_TO_LOG)
