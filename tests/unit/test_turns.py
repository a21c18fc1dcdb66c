"""Batches are settled in the order in which they were applied, and none after one that was not."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from worker.amqp.errors import BrokerUnavailable
from worker.pipeline.turns import MOST_IN_FLIGHT, Turn, Turns


class Session:
    def __init__(self) -> None:
        self.has_ended = False

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(work)

    def end(self) -> None:
        self.has_ended = True


class Batches:
    """Each becomes durable when the test says so."""

    def __init__(self) -> None:
        self.session = Session()
        session: Any = self.session
        self.turns = Turns(session)
        self.applied: list[int] = []
        self.settled: list[int] = []
        self.cancelled: list[int] = []
        self.durable: dict[int, asyncio.Future[None]] = {}

    def batch(self, number: int) -> Callable[[Turn], Coroutine[Any, Any, None]]:
        self.durable[number] = asyncio.get_running_loop().create_future()

        async def process(turn: Turn) -> None:
            try:
                self.applied.append(number)
                turn.let_next_begin()
                await self.durable[number]
                await turn.until_earlier_are_settled()
                self.settled.append(number)
            except asyncio.CancelledError:
                self.cancelled.append(number)
                raise

        return process

    async def begin(self, count: int) -> None:
        for number in range(count):
            await self.turns.begin(self.batch(number))


async def test_later_batches_are_applied_before_earlier_ones_are_settled() -> None:
    batches = Batches()
    async with batches.turns:
        await batches.begin(3)
        assert batches.applied == [0, 1, 2]
        assert batches.settled == []
        for number in (2, 1, 0):
            batches.durable[number].set_result(None)

    assert batches.settled == [0, 1, 2]


async def test_a_batch_that_does_not_let_the_next_one_begin_is_settled_first() -> None:
    batches = Batches()
    happened: list[str] = []

    async def alone(turn: Turn) -> None:
        await turn.until_earlier_are_settled()
        await asyncio.sleep(0)
        happened.append("settled")

    async with batches.turns:
        await batches.turns.begin(alone)
        happened.append("next")

    assert happened == ["settled", "next"]


async def test_after_a_failure_earlier_batches_are_settled_and_later_ones_are_not() -> None:
    batches = Batches()

    async def work() -> None:
        async with batches.turns:
            await batches.begin(3)
            batches.durable[1].set_exception(BrokerUnavailable("lost"))
            batches.durable[2].set_result(None)
            while not batches.session.has_ended:
                await asyncio.sleep(0)
            batches.durable[0].set_result(None)

    with pytest.raises(BrokerUnavailable):
        await work()

    assert batches.settled == [0]
    assert batches.cancelled == [2]
    assert batches.session.has_ended


async def test_a_batch_behind_one_that_was_cancelled_is_not_settled() -> None:
    batches = Batches()
    async with batches.turns:
        await batches.begin(2)
        batches.durable[0].cancel()
        batches.durable[1].set_result(None)

    assert batches.settled == []
    assert batches.session.has_ended


async def test_an_error_of_the_caller_cancels_what_is_in_flight() -> None:
    batches = Batches()

    async def work() -> None:
        async with batches.turns:
            await batches.begin(2)
            raise ValueError("a test")

    with pytest.raises(ValueError, match="a test"):
        await work()

    assert batches.settled == []
    assert batches.cancelled == [0, 1]


async def test_a_cancelled_caller_leaves_no_batch_under_way() -> None:
    batches = Batches()

    async def work() -> None:
        async with batches.turns:
            await batches.begin(2)

    working = asyncio.create_task(work())
    while len(batches.applied) < 2:
        await asyncio.sleep(0)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working

    assert batches.cancelled == [0, 1]


async def test_a_caller_that_is_cancelled_as_the_last_batch_ends_is_cancelled() -> None:
    batches = Batches()

    async def last(turn: Turn) -> None:
        turn.let_next_begin()
        for _ in range(5):
            await asyncio.sleep(0)
        # It happens before the callbacks of this batch's end, and while the caller waits.
        asyncio.get_running_loop().call_soon(working.cancel)

    async def work() -> None:
        async with batches.turns:
            await batches.turns.begin(last)

    working = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_an_error_is_raised_rather_than_the_usual_end_of_a_session() -> None:
    batches = Batches()

    async def work() -> None:
        async with batches.turns:
            await batches.begin(2)
            batches.durable[1].set_exception(BrokerUnavailable("lost"))
            while not batches.session.has_ended:
                await asyncio.sleep(0)
            batches.durable[0].set_exception(ValueError("a test"))

    with pytest.raises(ValueError, match="a test"):
        await work()


async def test_batches_in_flight_are_limited() -> None:
    batches = Batches()
    async with batches.turns:
        beginning = asyncio.create_task(batches.begin(MOST_IN_FLIGHT + 1))
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(batches.applied) == MOST_IN_FLIGHT
        for number in range(MOST_IN_FLIGHT):
            batches.durable[number].set_result(None)
        while MOST_IN_FLIGHT not in batches.durable:
            await asyncio.sleep(0)
        batches.durable[MOST_IN_FLIGHT].set_result(None)
        await beginning

    assert batches.settled == list(range(MOST_IN_FLIGHT + 1))
