"""Signs of life of the product: answers, commits, and the readiness of its processes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic

import asyncpg
import httpx

from tests.chaos.faults import Target
from tests.chaos.load import Record
from tests.support.supervised import Supervised

LOOK_SECONDS = 0.05

# The driver raises these when a server dies, depending on the state of the connection.
_LOST = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    EOFError,
    TimeoutError,
)

# Families with several events per second.
BUSY_FAMILIES = ("inventory", "orders", "buybacks")

NEWEST = """
SELECT family, max(last_received_at) AS received_at
FROM event_sequences
WHERE family = ANY($1::text[])
GROUP BY family
"""

# After a failover, an old primary still answers queries, with outdated rows.
IS_PRIMARY = "SELECT current_setting('transaction_read_only') = 'off'"


@dataclass(frozen=True, slots=True)
class Instant:
    """The current time of both clocks: the product stamps events with the wall clock."""

    monotonic: float = field(default_factory=monotonic)
    wall: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds from the end of a fault to each sign of life; None: not within the deadline.

    A request is answered 2xx; of each busy family, an event that was received after the healing is
    applied (events from before it may still have been in flight); all processes are ready.
    """

    answered: float | None
    applied: float | None
    ready: float | None

    @property
    def is_complete(self) -> bool:
        return None not in (self.answered, self.applied, self.ready)

    @property
    def unready(self) -> str:
        signs = {"no 200": self.answered, "nothing applied": self.applied, "not ready": self.ready}
        return ", ".join(sign for sign, seconds in signs.items() if seconds is None)


@dataclass(slots=True)
class Pulse:
    """Observes the product without the proxies."""

    database_url: str
    processes: Mapping[Target, Supervised]
    record: Record
    newest: dict[str, datetime] = field(default_factory=dict)
    """When the newest applied event was received, by family."""
    longest_stall: float = 0.0
    """The longest time without progress of one busy family since the last reset, in seconds."""
    _moved: dict[str, float] = field(default_factory=dict)

    async def watch(self) -> None:
        """Record the times of applied events until cancelled; errors of the database are ignored."""
        while True:
            with suppress(*_LOST):
                connection = await asyncpg.connect(self.database_url, timeout=5, command_timeout=5)
                try:
                    while await connection.fetchval(IS_PRIMARY):
                        rows = await connection.fetch(NEWEST, BUSY_FAMILIES)
                        self._note({row["family"]: row["received_at"] for row in rows})
                        await asyncio.sleep(LOOK_SECONDS)
                finally:
                    connection.terminate()
            await asyncio.sleep(LOOK_SECONDS)

    def begin(self) -> None:
        """Reset the longest times without an answer and without progress."""
        self.record.longest_silence = self.longest_stall = 0.0

    def _note(self, newest: Mapping[str, datetime]) -> None:
        now = monotonic()
        for family, received_at in newest.items():
            if self.newest.get(family) != received_at:
                self.longest_stall = max(self.longest_stall, now - self._moved.get(family, now))
                self._moved[family] = now
        self.newest |= newest

    async def recovery(self, healed: Instant, deadline: float) -> Recovery:
        """Wait for all signs of life, at most until `deadline` seconds after the fault ended."""
        waiting = list(self.processes.values())

        async def answered() -> bool:
            return self.record.last_accepted > healed.monotonic

        async def applied() -> bool:
            return all(
                family in self.newest and self.newest[family] > healed.wall for family in BUSY_FAMILIES
            )

        async def ready() -> bool:
            """Whether each process has been ready at least once."""
            nonlocal waiting
            waiting = [process for process in waiting if not await process.is_ready(client)]
            return not waiting

        async with httpx.AsyncClient(timeout=1) as client:
            return Recovery(
                *await asyncio.gather(
                    *(_seconds_until(sign, healed, deadline) for sign in (answered, applied, ready))
                )
            )


async def _seconds_until(
    sign: Callable[[], Awaitable[bool]], healed: Instant, deadline: float
) -> float | None:
    while monotonic() < healed.monotonic + deadline:
        if await sign():
            return monotonic() - healed.monotonic
        await asyncio.sleep(LOOK_SECONDS)
    return None
