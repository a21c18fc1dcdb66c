"""Sessions with the broker follow each other with pauses."""

import asyncio

import pytest
from structlog.testing import capture_logs

from worker.amqp.connection import reconnect_forever
from worker.amqp.errors import BrokerUnavailable


async def test_sessions_that_end_at_once_are_paused_each_longer_and_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.amqp.connection.FIRST_PAUSE_SECONDS", 0.001)
    stopping = asyncio.Event()
    troubles: list[str] = []
    sessions = 0

    async def session() -> None:
        nonlocal sessions
        sessions += 1
        if sessions == 5:
            stopping.set()

    with capture_logs() as lines:
        await reconnect_forever("quarantine", session, stopping, troubles.append)

    assert [(line["event"], line["connection"], line["pause"]) for line in lines] == [
        ("session.ended_early", "quarantine", pause) for pause in (0.001, 0.002, 0.004, 0.008)
    ]
    assert troubles == ["its last session ended early"] * 4


async def test_the_reason_for_a_missing_session_is_logged_and_reported() -> None:
    stopping = asyncio.Event()
    troubles: list[str] = []

    async def session() -> None:
        if troubles:
            stopping.set()
            return
        raise BrokerUnavailable("530 NOT_ALLOWED - vhost nowhere not found")

    with capture_logs() as lines:
        await reconnect_forever("orders", session, stopping, troubles.append)

    assert troubles == ["530 NOT_ALLOWED - vhost nowhere not found"] == [line["reason"] for line in lines]


async def test_a_session_that_the_client_library_cancels_is_followed_by_another() -> None:
    stopping = asyncio.Event()
    sessions = 0

    async def session() -> None:
        nonlocal sessions
        sessions += 1
        if sessions == 2:
            stopping.set()
            return
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lost.cancel()
        await lost

    await reconnect_forever("test", session, stopping)

    assert sessions == 2


async def test_a_task_that_is_cancelled_ends_its_session() -> None:
    began = asyncio.Event()

    async def session() -> None:
        began.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(reconnect_forever("test", session, asyncio.Event()))
    await began.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
