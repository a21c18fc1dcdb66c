"""Follows the table `paused_families`: switches the families of this process off and on."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import structlog

from consumers.registry import FAMILIES
from worker.amqp.switch import Switch
from worker.observability import metrics
from worker.observability.backoff import sleep_unless_stopping
from worker.postgres.failures import DatabaseUnavailable, blameless
from worker.postgres.pauses import Pause, read_all
from worker.postgres.pool import Database

log = structlog.get_logger(__name__)

# A user's command is obeyed within 2 s. A notification would save little of that, and need a connection.
READ_EVERY_SECONDS = 0.5


@dataclass(slots=True)
class PauseWatch:
    """Switches each family off while a user's pause of it lasts."""

    database: Database
    switches: Mapping[str, Switch]
    stopping: asyncio.Event
    _pauses: Mapping[str, Pause] = field(default_factory=dict)

    async def run(self) -> None:
        """Read until shutdown. While the database is unavailable, nothing changes."""
        is_available = True
        while not self.stopping.is_set():
            await sleep_unless_stopping(READ_EVERY_SECONDS, self.stopping)
            try:
                await self.read()
            except DatabaseUnavailable as outage:
                if is_available:
                    log.warning("pauses.unreadable", reason=str(outage))
                is_available = False
            else:
                is_available = True

    async def read(self) -> None:
        """Read the table, and switch the families accordingly.

        Raises:
            DatabaseUnavailable
        """
        pauses = await blameless(self._read())
        for family in FAMILIES:
            metrics.PAUSED_BY_USER.labels(family).set(family in pauses)
        for family, switch in self.switches.items():
            earlier, pause = self._pauses.get(family), pauses.get(family)
            if pause is not None and pause != earlier:
                switch.turn_off(str(pause))
                log.warning("family.paused", family=family, **asdict(pause))
            elif pause is None and earlier is not None:
                switch.turn_on()
                log.info("family.resumed", family=family, **asdict(earlier))
        self._pauses = pauses

    async def _read(self) -> Mapping[str, Pause]:
        async with self.database.connection() as connection:
            return await read_all(connection)
