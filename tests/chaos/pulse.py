"""Whether the product is at work: answers, commits, and what its processes say of themselves."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

import asyncpg
import httpx

from tests.chaos.faults import Target
from tests.chaos.load import Record
from tests.chaos.processes import Supervised

LOOK_SECONDS = 0.05

# The newest row of each family stands at the end of an index.
NEWEST = """
SELECT coalesce(sum(seq), 0)
FROM unnest($1::text[]) AS families (family),
    LATERAL (
        SELECT seq
        FROM event_log
        WHERE event_log.family = families.family
        ORDER BY seq DESC
        LIMIT 1
    ) AS newest
"""


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds from the healing to each sign of life; None: not within the deadline."""

    answered: float | None
    applied: float | None
    ready: float | None

    @property
    def is_complete(self) -> bool:
        return None not in (self.answered, self.applied, self.ready)

    @property
    def unready(self) -> str:
        signs = {"no 200": self.answered, "nothing applied": self.applied, "not ready": self.ready}
        return ", ".join(words for words, seconds in signs.items() if seconds is None)


@dataclass(slots=True)
class Pulse:
    """Looks at the product past the proxies."""

    database_url: str
    families: Sequence[str]
    processes: Mapping[Target, Supervised]
    record: Record
    last_applied: float = 0.0

    async def watch(self) -> None:
        """Note when something was applied, for ever, whatever happens to the database."""
        newest = -1
        while True:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                connection = await asyncpg.connect(self.database_url, timeout=5, command_timeout=5)
                try:
                    while True:
                        found = await connection.fetchval(NEWEST, list(self.families))
                        if found != newest:
                            self.last_applied = monotonic()
                        newest = found
                        await asyncio.sleep(LOOK_SECONDS)
                finally:
                    connection.terminate()
            await asyncio.sleep(LOOK_SECONDS)

    async def recovery(self, healed_at: float, deadline: float) -> Recovery:
        """Wait until all signs of life are there, `deadline` seconds after the healing at most."""
        async with httpx.AsyncClient(timeout=1) as client:
            answered, applied, ready = await asyncio.gather(
                self._first_after(healed_at, deadline, lambda: self.record.last_accepted),
                self._first_after(healed_at, deadline, lambda: self.last_applied),
                self._ready_after(healed_at, deadline, client),
            )
        return Recovery(answered, applied, ready)

    async def _first_after(self, instant: float, deadline: float, last: Callable[[], float]) -> float | None:
        while monotonic() < instant + deadline:
            if last() > instant:
                return last() - instant
            await asyncio.sleep(LOOK_SECONDS)
        return None

    async def _ready_after(self, instant: float, deadline: float, client: httpx.AsyncClient) -> float | None:
        """When every process had been seen ready."""
        waiting = list(self.processes.values())
        while monotonic() < instant + deadline:
            waiting = [process for process in waiting if not await process.is_ready(client)]
            if not waiting:
                return monotonic() - instant
            await asyncio.sleep(LOOK_SECONDS)
        return None
