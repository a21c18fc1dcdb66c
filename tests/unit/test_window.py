"""What was delivered comes out in order, and is read bit by bit."""

import asyncio

from worker.amqp.tap import Delivery
from worker.pipeline.batch import Arrived, InvalidDelivery, Suspect
from worker.pipeline.buffer import READ_AT_ONCE, PrefetchBuffer

MANY = 3 * READ_AT_ONCE


def read(delivery: Delivery) -> Arrived:
    return Suspect(delivery) if delivery.redelivered else InvalidDelivery(delivery, "not looked into")


def filled(count: int, *, suspect: int | None = None) -> PrefetchBuffer:
    window = PrefetchBuffer(read)
    for tag in range(count):
        window.put(Delivery(tag, "", {}, b"", redelivered=tag == suspect))
    return window


def tags(items: list[Arrived]) -> list[int]:
    return [item.delivery.tag for item in items]


async def test_a_few_are_read_before_the_event_loop_does_anything_else() -> None:
    window = filled(MANY)

    assert tags(await window.take(MANY)) == list(range(READ_AT_ONCE))


async def test_all_are_read_in_the_end_and_keep_their_order() -> None:
    window = filled(MANY)
    assert len(window) == MANY
    for _ in range(MANY):
        await asyncio.sleep(0)

    assert tags(await window.take(MANY)) == list(range(MANY))
    assert len(window) == 0


async def test_a_suspect_comes_alone() -> None:
    window = filled(5, suspect=2)

    assert [tags(await window.take(10)) for _ in range(3)] == [[0, 1], [2], [3, 4]]


async def test_a_closed_window_gives_out_nothing_but_keeps_all() -> None:
    window = filled(MANY)
    await asyncio.sleep(0)
    window.close()

    assert await window.take(MANY) == []
    assert tags(window.take_all()) == list(range(MANY))
    # What was about to be read has been taken.
    await asyncio.sleep(0)
    assert len(window) == 0
