"""Values for all viewers are made one at a time, and kept for a while."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from worker.console.shared import MOST, Shared


def _counting(fails: int = 0) -> Callable[[], Awaitable[int]]:
    """Makes 1, 2, 3…; the first ones fail."""
    made = 0

    async def make() -> int:
        nonlocal made
        made += 1
        number = made
        await asyncio.sleep(0)
        if number <= fails:
            raise ValueError(f"failure {number}")
        return number

    return make


async def test_viewers_at_the_same_time_and_soon_after_share_a_value() -> None:
    shared, make = Shared(), _counting()
    values = await asyncio.gather(*(shared.get("doctor", 60, make) for _ in range(20)))

    assert {*values, await shared.get("doctor", 60, make)} == {1}
    assert await shared.get("other", 60, make) == 2
    assert await shared.get("doctor", 0, make) == 3, "it is too old"


async def test_a_viewer_who_leaves_does_not_end_what_others_wait_for() -> None:
    shared, make = Shared(), _counting()
    first, second = (asyncio.create_task(shared.get("doctor", 60, make)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()

    assert await second == 1
    assert await shared.get("doctor", 60, make) == 1


async def test_after_a_failure_the_value_is_made_again() -> None:
    shared, make = Shared(), _counting(fails=1)
    answers = await asyncio.gather(
        *(shared.get("doctor", 60, make) for _ in range(3)), return_exceptions=True
    )

    assert {str(answer) for answer in answers} == {"failure 1"}
    assert await shared.get("doctor", 60, make) == 2


async def test_the_number_of_values_is_bounded() -> None:
    shared, make = Shared(), _counting()
    for key in range(3 * MOST):
        await shared.get(key, 60, make)

    assert await shared.get(3 * MOST - 1, 60, make) == 3 * MOST
    assert await shared.get(0, 60, make) == 3 * MOST + 1, "it was dropped"
    with pytest.raises(ValueError, match="failure 1"):
        await shared.get(0, 0, _counting(fails=1))
