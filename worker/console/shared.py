"""Values that are expensive to make: for all viewers, made when one looks, and kept for a while."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar, cast

T = TypeVar("T")

# Values in memory; their keys are of our own, so that no viewer can add many.
MOST = 100


@dataclass(slots=True)
class _Value:
    """`made_at` is None until the task has ended."""

    task: "asyncio.Task[object]"
    made_at: float | None = None


class Shared:
    """All who request a value while it is being made wait for the same one. A failure is not kept."""

    def __init__(self) -> None:
        self._values: dict[Hashable, _Value] = {}

    async def get(self, key: Hashable, seconds: float, make: Callable[[], Awaitable[T]]) -> T:
        """The value with this key, made at most `seconds` ago.

        Raises: what `make` raises.
        """
        value = self._values.get(key)
        if value is None or (value.made_at is not None and monotonic() - value.made_at >= seconds):
            self._values.pop(key, None)
            while len(self._values) >= MOST:
                self._values.pop(next(iter(self._values)))
            value = self._values[key] = _Value(asyncio.create_task(self._make(key, make)))
        # A viewer who leaves does not end what others wait for.
        return cast(T, await asyncio.shield(value.task))

    async def _make(self, key: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        task = asyncio.current_task()
        try:
            made = await make()
        except BaseException:
            if (value := self._values.get(key)) is not None and value.task is task:
                del self._values[key]
            raise
        if (value := self._values.get(key)) is not None and value.task is task:
            value.made_at = monotonic()
        return made
