"""Waiting that ends at shutdown: for a service that is unavailable, and for the next turn of regular work."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    RetryError,
    retry_if_exception_type,
    stop_after_delay,
    stop_never,
    wait_exponential_jitter,
)

T = TypeVar("T")


class ShutdownRequested(Exception):
    """Shutdown was requested during a wait."""


class DeadlineExceeded(Exception):
    """The service did not become available in time."""


async def retry_until_available(
    call: Callable[[], Awaitable[T]],
    errors: type[Exception] | tuple[type[Exception], ...],
    stopping: asyncio.Event,
    *,
    longest_pause: float,
    at_most: float | None = None,
    say: Callable[[str], None] | None = None,
) -> T:
    """Call again after these errors until it succeeds; pauses and `at_most` are in seconds.

    Raises:
        ShutdownRequested
        DeadlineExceeded
    """

    def before_sleep(state: RetryCallState) -> None:
        if say is not None and state.outcome is not None:
            say(str(state.outcome.exception()))

    async def again(seconds: float) -> None:
        await sleep_unless_stopping(seconds, stopping)

    async def attempt() -> T:
        # tenacity would take a function that merely returns an awaitable for a synchronous one.
        return await call()

    is_over = stop_never if at_most is None else stop_after_delay(at_most)
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(errors),
        wait=wait_exponential_jitter(multiplier=0.1, max=longest_pause, jitter=0.1),
        stop=lambda state: stopping.is_set() or is_over(state),
        sleep=again,
        before_sleep=before_sleep,
    )
    try:
        return await retrying(attempt)
    except RetryError as error:
        if stopping.is_set():
            raise ShutdownRequested from error
        raise DeadlineExceeded from error


async def repeat_until_stopping(
    work: Callable[[], Awaitable[None]],
    every_seconds: float,
    stopping: asyncio.Event,
    on_failure: Callable[[Exception], None],
) -> None:
    """Do this work now and after each pause, until shutdown, whether it fails or not."""
    while not stopping.is_set():
        try:
            await work()
        except Exception as error:
            on_failure(error)
        await sleep_unless_stopping(every_seconds, stopping)


async def sleep_unless_stopping(seconds: float, stopping: asyncio.Event) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)
