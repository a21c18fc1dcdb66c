"""The buffer returns deliveries in order, a few at a time."""

import asyncio

from worker.amqp.buffer import READ_AT_ONCE, PrefetchBuffer
from worker.amqp.tap import Delivery

MANY = 3 * READ_AT_ONCE


def filled(count: int, *, redelivered: int | None = None) -> PrefetchBuffer[Delivery]:
    buffer = PrefetchBuffer(lambda delivery: delivery, lambda delivery: delivery.redelivered)
    for tag in range(count):
        buffer.put(Delivery(tag, "", {}, b"", redelivered=tag == redelivered))
    return buffer


def tags(items: list[Delivery]) -> list[int]:
    return [item.tag for item in items]


async def test_a_few_are_read_before_the_event_loop_does_anything_else() -> None:
    buffer = filled(MANY)

    assert tags(await buffer.take(MANY)) == list(range(READ_AT_ONCE))


async def test_all_are_read_in_the_end_and_keep_their_order() -> None:
    buffer = filled(MANY)
    assert len(buffer) == MANY
    for _ in range(MANY):
        await asyncio.sleep(0)

    assert tags(await buffer.take(MANY)) == list(range(MANY))
    assert len(buffer) == 0


async def test_an_item_may_be_a_batch_by_itself() -> None:
    buffer = filled(5, redelivered=2)

    assert [tags(await buffer.take(10)) for _ in range(3)] == [[0, 1], [2], [3, 4]]


async def test_a_closed_buffer_returns_nothing() -> None:
    buffer = filled(MANY)
    await asyncio.sleep(0)
    buffer.close()

    assert await buffer.take(MANY) == []
