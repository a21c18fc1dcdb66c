"""Reads the body of a request within its size and its time, and within the memory for all bodies."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from time import monotonic

from worker.amqp.timeouts import TimeoutGroup
from worker.ingest.body_memory import BodyMemory, Held, NoRoom
from worker.ingest.exchange import BodyIncomplete, Refused, Request, incomplete, too_large

# A body whose sender has no valid secret in the headers must be complete within UNAUTHENTICATED_SECONDS, and
# after the first seconds arrive at least at this rate.
UNAUTHENTICATED_FIRST_SECONDS = 3.0
UNAUTHENTICATED_BYTES_PER_SECOND = 1024
UNAUTHENTICATED_SECONDS = 5.0

# A deadline is noticed at most this late.
CHECK_SECONDS = 0.25


@dataclass(slots=True)
class BodyReader:
    body_limit: int
    body_timeout: float
    memory: BodyMemory
    _deadlines: TimeoutGroup = field(default_factory=lambda: TimeoutGroup(CHECK_SECONDS))

    async def read(self, request: Request, held: Held, *, has_secret: bool) -> bytes:
        """The body as it was sent; it is counted in what is held.

        A sender that `has_secret` in the headers gets more time, and is not broken off to make room.

        Raises:
            NoRoom
            Refused
        """
        chunks: list[bytes] = []
        began = monotonic()
        timeout = None
        # A body that has arrived needs no deadline.
        if not request.is_whole():
            timeout = self._deadlines.timeout(self._body_seconds(0, has_secret))
            if not has_secret:
                held.break_off = partial(self._deadlines.expire_now, timeout)
        try:
            async with timeout or nullcontext():
                async for chunk in request.body:
                    size = held.size + len(chunk)
                    if size > self.body_limit:
                        raise too_large(self.body_limit)
                    self.memory.resize(held, size)
                    chunks.append(chunk)
                    if timeout is not None:
                        left = self._body_seconds(size, has_secret) - (monotonic() - began)
                        self._deadlines.postpone(timeout, left)
        except BodyIncomplete:
            raise incomplete() from None
        except TimeoutError:
            if held.was_broken_off:
                raise NoRoom from None
            raise self._too_slow(has_secret) from None
        finally:
            held.break_off = None
            if timeout is not None:
                self._deadlines.forget(timeout)
        if held.was_broken_off:
            raise NoRoom
        if held.size < int(request.headers.get("content-length", "0")):
            raise incomplete()
        return b"".join(chunks)

    def _body_seconds(self, size: int, has_secret: bool) -> float:
        """The seconds within which so many bytes of a body, or all of it, must have arrived."""
        if has_secret:
            return self.body_timeout
        at_that_rate = UNAUTHENTICATED_FIRST_SECONDS + size / UNAUTHENTICATED_BYTES_PER_SECOND
        return min(self.body_timeout, UNAUTHENTICATED_SECONDS, at_that_rate)

    def _too_slow(self, has_secret: bool) -> Refused:
        seconds = self.body_timeout
        rate = ""
        if not has_secret:
            seconds = min(seconds, UNAUTHENTICATED_SECONDS)
            rate = f", and at {UNAUTHENTICATED_BYTES_PER_SECOND} bytes a second or faster"
        detail = f"The body must arrive within {seconds:g} seconds{rate}."
        return Refused(408, "Body too slow", detail, (("connection", "close"),))
