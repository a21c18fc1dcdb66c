"""A subscription waits while its switch is off, and its wait ends at shutdown."""

import asyncio

import pytest

from worker.amqp.switch import Switch
from worker.observability.backoff import ShutdownRequested
from worker.observability.ops_server import Intended, readiness


async def test_a_wait_ends_when_it_is_turned_on() -> None:
    switch = Switch()
    await switch.until_on(asyncio.Event())
    switch.turn_off("a reason")
    await switch.until_off()
    waiting = asyncio.create_task(switch.until_on(asyncio.Event()))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert switch.reason == "a reason"
    switch.turn_on()
    await waiting

    assert switch.is_on
    assert switch.reason is None


async def test_a_wait_ends_at_shutdown() -> None:
    switch, stopping = Switch(), asyncio.Event()
    switch.turn_off("a reason")
    waiting = asyncio.create_task(switch.until_on(stopping))
    await asyncio.sleep(0)
    stopping.set()

    with pytest.raises(ShutdownRequested):
        await waiting


async def test_a_process_is_ready_while_a_user_wants_it_to_wait() -> None:
    async def is_paused() -> Intended:
        return Intended("paused by me")

    async def is_well() -> None:
        return None

    async def is_broken() -> str:
        return "broken"

    paused = await readiness({"orders": is_paused, "returns": is_well})
    broken = await readiness({"orders": is_paused, "returns": is_broken})

    assert paused == (200, b'{"status":"ready","checks":{"orders":"paused by me","returns":"ok"}}')
    assert broken == (503, b'{"status":"not ready","checks":{"orders":"paused by me","returns":"broken"}}')
