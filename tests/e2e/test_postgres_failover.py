"""Failovers of Postgres under load: nothing is lost, no attempt is spent, no process ends."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from itertools import count
from time import monotonic
from typing import Self

import httpx
import pytest

from tests.support.events import body, order_created, part_changed, return_updated
from tests.support.postgres_pair import PostgresPair, fetch_value, postgres_pair
from tests.support.stack import OVOKO_SECRET, Stack, Worker, http_client, until
from worker.postgres.durability import Flusher
from worker.postgres.failures import DatabaseUnavailable
from worker.postgres.pool import Database

# Two servers for each test (`make test-cluster`).
pytestmark = pytest.mark.cluster

EVENTS_PER_SECOND = 80
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stockhook/consumer'"
WAL_WRITER = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"
SEEN = "SELECT count(*) FROM seen"
STATUSES = ("in_warehouse", "reserved", "sold")


@pytest.fixture
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PostgresPair]:
    async with postgres_pair(tmp_path_factory.mktemp("pair")) as started:
        yield started


@pytest.fixture
async def stack_on_pair(stack: Stack, pair: PostgresPair) -> Stack:
    stack.environment["STOCKHOOK_DATABASE_URL"] = pair.url
    await stack.empty()
    return stack


def event(number: int) -> bytes:
    """An event; three families alternate."""
    match number % 3:
        case 0:
            return body(part_changed(number % 50, STATUSES[number % 3], number=number))
        case 1:
            return body(order_created(number, number))
        case _:
            return body(return_updated(number, number % 50))


class Load:
    """Posts at a steady rate while the context is open; each must be answered 200."""

    def __init__(self, url: str) -> None:
        self.accepted = 0
        self._url = url
        self._is_over = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._posting = asyncio.create_task(self._post_all())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over.set()
        await self._posting

    async def _post_all(self) -> None:
        began = monotonic()
        async with http_client(20) as client, asyncio.TaskGroup() as posts:
            for number in count():
                posts.create_task(self._post(client, event(number)))
                await asyncio.sleep(began + (number + 1) / EVENTS_PER_SECOND - monotonic())
                if self._is_over.is_set():
                    return

    async def _post(self, client: httpx.AsyncClient, body: bytes) -> None:
        headers = {"X-Webhook-Secret": OVOKO_SECRET}
        answer = await client.post(f"{self._url}/webhooks/ovoko", content=body, headers=headers)
        assert answer.status_code == 200
        self.accepted += 1

    async def until_accepted(self, number: int) -> None:
        async def are_accepted() -> bool:
            return self.accepted >= number

        await until(are_accepted, f"{number} are accepted", 60)


async def test_a_primary_that_is_killed_costs_no_attempt_and_ends_no_process(
    stack_on_pair: Stack, pair: PostgresPair
) -> None:
    stack = stack_on_pair
    worker = stack.start("run")
    await stack.ready(worker, 60)
    async with Load(stack.url) as load:
        await load.until_accepted(2 * EVENTS_PER_SECOND)
        pair.kill_primary()
        await load.until_accepted(load.accepted + EVENTS_PER_SECOND)
        await pair.promote_standby()
        await load.until_accepted(load.accepted + 2 * EVENTS_PER_SECOND)
    await until(lambda: are_applied(pair, load.accepted), "all are applied", 60)

    await check_nothing_failed(stack, worker, load.accepted)


async def test_after_a_failover_that_keeps_sessions_work_goes_on_at_the_new_primary(
    stack_on_pair: Stack, pair: PostgresPair
) -> None:
    stack = stack_on_pair
    worker = stack.start("run")
    await stack.ready(worker, 60)
    async with Load(stack.url) as load:
        await load.until_accepted(2 * EVENTS_PER_SECOND)
        await pair.make_primary_read_only()
        await pair.promote_standby()
        promoted = monotonic()
        before = await applied(pair)
        await until(lambda: are_applied(pair, before + 1), "an event is applied at the new primary", 60)
        print(f"work went on {monotonic() - promoted:.1f} s after the promotion")
        await load.until_accepted(load.accepted + EVENTS_PER_SECOND)
    await until(lambda: are_applied(pair, load.accepted), "all are applied", 60)

    async def has_no_sessions() -> bool:
        return await fetch_value(pair.primary, SESSIONS) == 0

    async def has_published() -> bool:
        return await fetch_value(pair.standby, "SELECT count(*) FROM changes") == 0

    await until(has_no_sessions, "listeners have left the server that is read-only")
    await until(has_published, "the change feed goes on")
    await check_nothing_failed(stack, worker, load.accepted)


async def test_a_commit_that_was_not_flushed_may_be_missing_at_the_promoted_standby(
    pair: PostgresPair,
) -> None:
    database = Database(pair.url, 3, "test")
    writer = int(str(await fetch_value(pair.primary, WAL_WRITER)))
    try:
        async with Flusher(database) as flusher:
            async with flusher.transaction() as (connection, _):
                await connection.execute("CREATE TABLE seen (number integer)")
            # Without it, nothing but a flush sends commits to the standby.
            os.kill(writer, signal.SIGSTOP)
            async with flusher.transaction(asynchronously=True) as (connection, before):
                await connection.execute("INSERT INTO seen VALUES (1)")
            pair.kill_primary()
            await pair.promote_standby()
            with pytest.raises(DatabaseUnavailable):
                await before.flush()
            missing = await fetch_value(pair.standby, SEEN) == 0

            async with flusher.transaction(asynchronously=True) as (connection, after):
                await connection.execute("INSERT INTO seen VALUES (1)")
            await after.flush()
    finally:
        os.kill(writer, signal.SIGKILL)
        await database.close()

    assert missing
    assert await fetch_value(pair.standby, SEEN) == 1


async def applied(pair: PostgresPair) -> int:
    return int(str(await fetch_value(pair.standby, "SELECT count(*) FROM event_log")))


async def are_applied(pair: PostgresPair, number: int) -> bool:
    return await applied(pair) >= number


async def check_nothing_failed(stack: Stack, worker: Worker, number: int) -> None:
    assert worker.process.poll() is None, worker.lines()[-3000:]
    assert "delivery.failed" not in worker.lines()
    assert "Traceback" not in worker.lines()
    assert await stack.depths() == {}
    assert await stack.count("event_log") == number
    check = stack.run("audit", "--json")
    assert check.returncode == 0, check.stdout
