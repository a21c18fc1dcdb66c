"""The end of a publisher."""

import asyncio
from contextlib import suppress

import pytest

from worker.amqp import publisher as publishing
from worker.amqp.connection import Broker
from worker.amqp.publisher import Publisher
from worker.amqp.topology import Topology


class LosesCancellation(Publisher):
    """Loses a cancellation, as the client library can while it connects."""

    async def _session(self) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(3600)


def publisher() -> Publisher:
    return LosesCancellation(Broker("amqp://localhost/stockhook", "test"), Topology((), (), ()), 1.0)


async def test_a_publisher_ends_although_a_cancellation_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "CANCEL_AGAIN_SECONDS", 0.01)
    async with asyncio.timeout(30):
        async with publisher():
            await asyncio.sleep(0)


async def test_a_failure_that_no_caller_awaits_leaves_the_publisher_connected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publishing, "CANCEL_AGAIN_SECONDS", 0.01)
    async with publisher() as connected:
        waiting = asyncio.create_task(connected.failed())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])

        assert connected._task is not None
        assert not connected._task.cancelling()
