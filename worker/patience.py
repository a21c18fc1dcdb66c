"""How we wait for something outside to come back: growing pauses, cut short when we stop."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    RetryError,
    retry_if_exception_type,
    wait_exponential_jitter,
)

__all__ = ["RetryError", "patient"]


def patient(
    errors: type[Exception] | tuple[type[Exception], ...],
    stopping: asyncio.Event,
    *,
    longest: float,
    say: Callable[[str], None] | None = None,
) -> AsyncRetrying:
    """Call something again after these errors, until it succeeds; `longest` pause in seconds.

    Calling the result raises RetryError once `stopping` is set.
    """

    async def pause(seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), seconds)

    def before_sleep(state: RetryCallState) -> None:
        if say is not None and state.outcome is not None:
            say(str(state.outcome.exception()))

    return AsyncRetrying(
        retry=retry_if_exception_type(errors),
        wait=wait_exponential_jitter(initial=0.1, max=longest, jitter=0.1),
        stop=lambda _: stopping.is_set(),
        sleep=pause,
        before_sleep=before_sleep,
    )
