"""A batch is acknowledged, and its changes are published, once a flush has made its commit durable.

Until then a crash of Postgres can undo the commit, which it has answered.
"""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import asyncpg
import pytest

from deploy.local.ports import choose_ports
from deploy.local.postgres import PostgresNode, PostgresSettings
from deploy.local.process import Spawner
from deploy.local.services import Services
from tests.e2e.test_changes import subscribed
from tests.integration.test_database import Relay as Proxy
from tests.integration.test_sessions import Parts, consumer_of_returns, parts_of, returned
from tests.support.events import body, return_updated
from tests.support.postgres_pair import postgres_programs
from tests.support.stack import Stack, Worker, until
from tests.support.synchronous_commits import IS_WAITING, commits_wait
from worker.actions.executor import Executor
from worker.actions.settlement import Settlement
from worker.amqp.tap import Delivery
from worker.dead_letters.archiver import Archiver
from worker.postgres.durability import WRITE_TO_LOG, Flusher, FlushSession
from worker.postgres.failures import DatabaseUnavailable
from worker.postgres.pool import Connection, Database

SETTING = "SELECT current_setting('synchronous_commit')"
POSITION = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
WAL_WRITER = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"
CONSUMER_WAITS = """
SELECT 1 FROM pg_stat_activity WHERE application_name = 'stockhook/consumer' AND wait_event = 'SyncRep'
"""


@pytest.fixture
async def parts(stack: Stack) -> AsyncIterator[Parts]:
    async with parts_of(stack) as made:
        yield made


@asynccontextmanager
async def database_with(url: str, **settings: str) -> AsyncIterator[Database]:
    """A database whose defaults are these."""
    name = urlsplit(url).path.removeprefix("/")
    connection = await asyncpg.connect(url)
    for setting, value in settings.items():
        await connection.execute(f"ALTER DATABASE {name} SET {setting} = {value}")
    await connection.close()
    database = Database(url, 3, "test")
    try:
        yield database
    finally:
        await database.close()


@pytest.mark.parametrize(
    ("default", "of_session"),
    [("off", "on"), ("local", "on"), ("remote_write", "on"), ("remote_apply", "remote_apply")],
)
async def test_no_commit_depends_on_the_default_of_the_server(
    fresh_database: str, default: str, of_session: str
) -> None:
    async with database_with(fresh_database, synchronous_commit=default) as database:
        async with database.transaction() as connection:
            in_transaction = await connection.fetchval(SETTING)
        async with database.transaction(asynchronously=True) as connection:
            asynchronously = await connection.fetchval(SETTING)
        async with database.connection() as connection:
            afterwards = await connection.fetchval(SETTING)

    assert in_transaction == of_session
    assert asynchronously == "off"
    assert afterwards == of_session


async def test_the_message_of_a_flush_takes_little_of_the_log(fresh_database: str) -> None:
    async with database_with(fresh_database) as database, database.connection() as connection:
        before = int(await connection.fetchval(POSITION))
        await connection.execute(WRITE_TO_LOG)
        size = int(await connection.fetchval(POSITION)) - before

    # The message and the commit; other processes of the server write at times.
    assert 0 < size < 1_000


@asynccontextmanager
async def before_the_first_flush(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[FlushSession], Awaitable[None]]
) -> AsyncIterator[None]:
    """Between the commit of the first batch and its flush, the fault happens."""
    flush = FlushSession.flush
    faults = [fault]

    async def flush_after(fault: Awaitable[None], session: FlushSession) -> None:
        await fault
        await flush(session)

    def fail_and_flush(session: FlushSession) -> asyncio.Future[None]:
        return (
            asyncio.ensure_future(flush_after(faults.pop()(session), session)) if faults else flush(session)
        )

    with monkeypatch.context() as patch:
        patch.setattr(FlushSession, "flush", fail_and_flush)
        yield
    assert not faults


async def check_each_is_settled_once(parts: Parts, number: int) -> None:
    """Run a consumer until everything is acknowledged."""
    consumer = consumer_of_returns(parts)
    consumer._isolation.is_active = False
    running = asyncio.create_task(consumer.run())

    async def are_settled() -> bool:
        if running.done():
            await running
        return (
            consumer.subscription.session is not None
            and consumer.subscription.in_flight == 0
            and await parts.stack.depths() == {}
            and await parts.stack.count("event_log") == number
        )

    await until(are_settled, "all are settled", 60)
    assert await consumer.check() is None
    parts.stopping.set()
    await running
    rows = await parts.stack.fetch("SELECT update_count FROM returns")
    assert [row["update_count"] for row in rows] == [1] * number


async def test_a_commit_that_a_crash_undoes_is_applied_again(
    parts: Parts, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres = services.postgres
    if postgres is None:
        pytest.skip("needs a Postgres of our own")
    stack, counts = parts.stack, []
    [writer] = await stack.fetch(WAL_WRITER)

    async def crash(_session: FlushSession) -> None:
        counts.append(await stack.count("event_log"))
        await asyncio.to_thread(postgres.kill)
        await asyncio.to_thread(postgres.start)
        counts.append(await stack.count("event_log"))

    await parts.publisher.publish(returned(1))
    # Without it, nothing but a flush writes commits to the disk.
    os.kill(writer["pid"], signal.SIGSTOP)
    async with before_the_first_flush(monkeypatch, crash):
        await check_each_is_settled_once(parts, 1)

    assert counts == [1, 0]


async def test_a_flush_over_another_session_than_before_the_commit_does_not_count(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash that the postmaster survives ends all sessions, and can undo the commit."""
    ended: list[int] = []

    async def end_session(session: FlushSession) -> None:
        assert session._session is not None
        ended.append(session._session.get_server_pid())
        await parts.stack.fetch("SELECT pg_terminate_backend($1, 5000)", ended[0])

    for number in range(3):
        await parts.publisher.publish(returned(number))
    async with before_the_first_flush(monkeypatch, end_session):
        await check_each_is_settled_once(parts, 3)

    assert ended


async def test_a_flush_that_does_not_wait_for_the_standby_does_not_count(fresh_database: str) -> None:
    """If the wait of a commit is cancelled, Postgres answers that it succeeded, with a warning."""
    async with (
        database_with(fresh_database, client_min_messages="error") as database,
        Flusher(database) as flusher,
    ):
        async with flusher.transaction(asynchronously=True) as (connection, session):
            await connection.execute("CREATE TABLE written ()")
        assert session._session is not None
        pid = session._session.get_server_pid()
        async with commits_wait(fresh_database), database.connection() as other:
            flushing = session.flush()
            await cancel_wait(other, pid)
            with pytest.raises(DatabaseUnavailable, match="before the synchronous standby confirmed it"):
                await flushing
        async with flusher.transaction() as (_, next_session):
            await next_session.flush()


async def test_a_commit_that_does_not_wait_for_the_standby_does_not_count(fresh_database: str) -> None:
    async with database_with(fresh_database) as database, database.connection() as other:
        pids: list[int] = []

        async def write() -> None:
            async with database.transaction() as connection:
                pids.append(await connection.fetchval("SELECT pg_backend_pid()"))
                await connection.execute("CREATE TABLE written ()")

        async with commits_wait(fresh_database):
            writing = asyncio.create_task(write())
            while not pids:
                await asyncio.sleep(0.01)
            await cancel_wait(other, pids[0])
            with pytest.raises(DatabaseUnavailable, match="before the synchronous standby confirmed it"):
                await writing


async def cancel_wait(other: Connection, pid: int) -> None:
    async def waits() -> bool:
        return bool(await other.fetchval(IS_WAITING, pid))

    await until(waits, "the commit waits for the standby")
    await other.execute("SELECT pg_cancel_backend($1)", pid)


async def test_an_ignored_error_in_a_transaction_does_not_look_like_a_commit(fresh_database: str) -> None:
    async def fail(database: Database) -> None:
        async with database.transaction() as connection:
            with suppress(asyncpg.UndefinedTableError):
                await connection.execute("SELECT FROM missing")

    async with database_with(fresh_database) as database:
        with pytest.raises(RuntimeError, match="was rolled back"):
            await fail(database)


async def test_what_waits_together_is_flushed_together(fresh_database: str) -> None:
    async with database_with(fresh_database) as database, Flusher(database) as flusher:
        async with flusher.transaction() as (_, session):
            pass
        before = await current_position(database)
        await asyncio.gather(*(session.flush() for _ in range(50)))
        after = await current_position(database)
        await session.flush()

    # Two flushes at most: one that was under way, and one for all others.
    assert after - before < 1_000


async def current_position(database: Database) -> int:
    async with database.connection() as connection:
        return int(await connection.fetchval(POSITION))


@pytest.fixture
def other_server(services: Services, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a second server with the same user, password and database."""
    programs = postgres_programs()
    url = urlsplit(services.database_url)
    state = tmp_path / "other"
    state.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    spawner = Spawner()
    port = choose_ports(["other"], {})["other"]
    settings = PostgresSettings(
        state / "postgres", state / "log", programs, port, unquote(url.password or "")
    )
    node = PostgresNode(settings, spawner=spawner, durable=False)
    try:
        node.start()
        yield node.url
    finally:
        node.kill()
        spawner.close()


async def test_a_flush_of_another_server_does_not_count(services: Services, other_server: str) -> None:
    """As after a failover during which the old primary stays up: each session leads to one of the two."""
    proxy = Proxy(services.database_url)
    await proxy.start()
    database = Database(proxy.url, 3, "test")
    inside: list[Connection] = []
    try:
        async with Flusher(database) as flusher:
            async with flusher.transaction(asynchronously=True):
                pass
            proxy._url = urlsplit(other_server)
            database.close_idle()
            with pytest.raises(DatabaseUnavailable, match="the server was replaced"):
                async with flusher.transaction(asynchronously=True) as (connection, _):
                    inside.append(connection)
            async with flusher.transaction(asynchronously=True) as (connection, session):
                port = await connection.fetchval("SELECT inet_server_port()")
            await session.flush()
    finally:
        await database.close()
        await proxy.close()

    assert not inside
    assert port == urlsplit(other_server).port


async def store_letter(parts: Parts) -> None:
    stack, queue = parts.stack, "stockhook.returns.dead"
    archiver = Archiver(
        ("returns",), stack.settings, stack.broker, parts.database, parts.publisher, parts.stopping
    )
    message = returned(1, queue, **{"x-reason": "exhausted: it failed"})
    delivery = Delivery(1, message.type, message.headers, message.body, redelivered=False)
    await archiver._store([delivery._replace(queue=queue)])


async def record_outcome(parts: Parts) -> None:
    """Of an action that has an outcome."""
    await executor_of(parts)._record(UUID(int=1), Settlement("action.done", "done", {}))


async def perform_again(parts: Parts) -> None:
    """An action that has an outcome."""
    unused: Any = None
    delivery = Delivery(1, "", {}, b"", redelivered=True)
    assert await executor_of(parts)._perform(unused, unused, UUID(int=1), delivery) is None


def executor_of(parts: Parts) -> Executor:
    stack = parts.stack
    return Executor(stack.settings, stack.broker, parts.database, parts.publisher, parts.stopping)


@pytest.mark.parametrize("work", [store_letter, record_outcome, perform_again])
async def test_work_that_is_done_already_is_acknowledged_once_it_is_durable(
    parts: Parts, work: Callable[[Parts], Awaitable[None]]
) -> None:
    """A commit whose answer was lost may still wait for the standby: the repetition changes nothing."""
    await work(parts)
    async with commits_wait(parts.stack.environment["STOCKHOOK_DATABASE_URL"]):
        repeating = asyncio.create_task(work(parts))

        async def waits() -> bool:
            return bool(
                await parts.stack.fetch(
                    "SELECT 1 FROM pg_stat_activity "
                    "WHERE application_name = 'test' AND wait_event = 'SyncRep'"
                )
            )

        await until(waits, "its commit waits")
        assert not repeating.done()
    await repeating


async def in_flight(stack: Stack, consumer: Worker) -> int:
    text = (await stack.ops(consumer.ops_port, "/metrics")).text
    line = re.search(r'^stockhook_in_flight\{family="returns"\} (\S+)', text, re.MULTILINE)
    assert line
    return int(float(line[1]))


async def test_a_consumer_that_is_killed_with_several_batches_before_their_flush(stack: Stack) -> None:
    """They are not acknowledged, so they come again, and are applied once."""
    await stack.started("ingest")
    consumer = await stack.started("consume", "returns", STOCKHOOK_BATCH_SIZE="1")
    await stack.post_ovoko(body(return_updated(0)))

    async def is_settled() -> bool:
        return await stack.count("event_log") == 1 and await in_flight(stack, consumer) == 0

    async def are_in_flight() -> bool:
        return await stack.count("event_log") == 4 and await in_flight(stack, consumer) == 3

    async def are_back() -> bool:
        return await stack.depths() == {"stockhook.returns": 3}

    async def are_settled() -> bool:
        return await stack.depths() == {} and await in_flight(stack, consumer) == 0

    await until(is_settled, "the first event is settled")
    async with commits_wait(stack.environment["STOCKHOOK_DATABASE_URL"]):
        for number in range(1, 4):
            await stack.post_ovoko(body(return_updated(number)))
        await until(are_in_flight, "three batches are committed, and none is acknowledged")
        consumer.kill()
        await until(are_back, "the broker has them")
    consumer = await stack.started("consume", "returns")
    await until(are_settled, "all are settled")

    rows = await stack.fetch("SELECT update_count FROM returns")
    assert [row["update_count"] for row in rows] == [1] * 4
    assert await stack.count("event_log") == 4


async def test_batches_in_flight_are_flushed_and_acknowledged_at_a_shutdown(stack: Stack) -> None:
    await stack.started("ingest")
    consumer = await stack.started("consume", "returns", STOCKHOOK_SHUTDOWN_GRACE="60")
    await stack.post_ovoko(body(return_updated(0)))
    posted = [0]

    async def is_settled() -> bool:
        return await stack.count("event_log") == 1 and await in_flight(stack, consumer) == 0

    async def post() -> None:
        posted.append(len(posted))
        await stack.post_ovoko(body(return_updated(posted[-1])))

    async def are_applied() -> bool:
        return await stack.count("event_log") == len(posted)

    async def stays_in_the_queue() -> int:
        """Whether another event does, because the consumer takes no more."""
        await post()
        return (await stack.depths()).get("stockhook.returns", 0)

    await until(is_settled, "the first event is settled")
    async with commits_wait(stack.environment["STOCKHOOK_DATABASE_URL"]):
        for _ in range(3):
            await post()
        await until(are_applied, "they are applied")
        consumer.signal(signal.SIGTERM)
        await until(stays_in_the_queue, "the consumer stops")
    assert consumer.wait() == 0

    # The depth that is read right after a post does not include all events yet.
    left = len(posted) - await stack.count("event_log")
    assert left > 0
    assert await stack.depths() == {"stockhook.returns": left}


async def test_a_change_is_published_after_a_flush(stack: Stack) -> None:
    await stack.started("ingest")
    await stack.started("consume", "returns", STOCKHOOK_CHANGES="true")
    async with subscribed(stack) as subscriber:
        async with commits_wait(stack.environment["STOCKHOOK_DATABASE_URL"]):
            await stack.post_ovoko(body(return_updated(1)))

            async def relay_has_claimed() -> bool:
                """Its transaction is open, and the flush for it waits."""
                rows = await stack.fetch(
                    "SELECT 1 FROM pg_stat_activity WHERE application_name = 'stockhook/consumer' "
                    "AND state = 'idle in transaction' AND query LIKE '%DELETE FROM changes%'"
                )
                return bool(rows) and bool(await stack.fetch(CONSUMER_WAITS))

            await until(relay_has_claimed, "the relay has claimed the change")
            assert subscriber.got == []

        async def is_published() -> bool:
            return bool(subscriber.got)

        await until(is_published, "the change is published")
