"""Sessions with the broker follow each other, and never in a hot loop."""

import asyncio

import pytest
from structlog.testing import capture_logs

from worker.broker import keep_connected
from worker.channel import BrokerUnavailable


async def test_sessions_that_end_at_once_are_paused_each_longer_and_logged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.broker.FIRST_PAUSE_SECONDS", 0.001)
    stopping = asyncio.Event()
    troubles: list[str] = []
    sessions = 0

    async def session() -> None:
        nonlocal sessions
        sessions += 1
        if sessions == 5:
            stopping.set()

    with capture_logs() as lines:
        await keep_connected("quarantine", session, stopping, troubles.append)

    assert [(line["event"], line["connection"], line["pause"]) for line in lines] == [
        ("session.ended_early", "quarantine", pause) for pause in (0.001, 0.002, 0.004, 0.008)
    ]
    assert troubles == ["its last session ended early"] * 4


async def test_why_there_is_no_session_is_logged_and_said() -> None:
    stopping = asyncio.Event()
    troubles: list[str] = []

    async def session() -> None:
        if troubles:
            stopping.set()
            return
        raise BrokerUnavailable("530 NOT_ALLOWED - vhost nowhere not found")

    with capture_logs() as lines:
        await keep_connected("orders", session, stopping, troubles.append)

    assert troubles == ["530 NOT_ALLOWED - vhost nowhere not found"] == [line["reason"] for line in lines]
