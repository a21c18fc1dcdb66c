"""Isolation mode: a message that may end its consumer is handled while nothing else is in flight.

A delivery that was lost twice may have ended its consumer both times, together with its neighbours. It is
handled in isolation, after this try is committed (worker/postgres/poison.py).

One loss is not enough: a broker node that dies, a failover or a restart of a consumer returns all deliveries
in flight, and to isolate each of them would take minutes.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

from worker.amqp.subscription import SESSION_ENDS
from worker.amqp.tap import Delivery
from worker.pipeline.decode import identity_of
from worker.postgres import poison
from worker.postgres.failures import DatabaseUnavailable, blameless
from worker.postgres.pool import Database

# Added by quorum queues: how often the message was delivered and returned because its consumer was lost.
LOSSES_HEADER = "x-delivery-count"
LOSSES = 2


def is_possibly_poisonous(delivery: Delivery) -> bool:
    losses = delivery.headers.get(LOSSES_HEADER)
    return delivery.redelivered and isinstance(losses, int) and losses >= LOSSES


@dataclass(slots=True)
class Isolation:
    """Isolation mode of one family. All families of a process share the `lock`."""

    family: str
    database: Database
    lock: asyncio.Lock
    is_active: bool = True

    @asynccontextmanager
    async def handling(self, delivery: Delivery) -> AsyncIterator[None]:
        """While it lasts, no other family of the process handles a possibly poisonous message.

        Otherwise two messages would both be blamed for the failure of one.
        """
        async with self.lock:
            try:
                yield
            except (*SESSION_ENDS, asyncio.CancelledError):
                # This try ended for other reasons than the event's.
                with suppress(DatabaseUnavailable):
                    await self.clear(delivery)
                raise

    async def note_try(self, delivery: Delivery, at: datetime) -> bool:
        """Commit that a message is about to be handled; False if it ended its consumer too often before.

        `at` identifies the try: it counts once however often this is called with it.

        Raises:
            DatabaseUnavailable
        """
        tries = await blameless(poison.note_try(self.database, self.family, identity_of(delivery), at))
        return tries <= poison.TRIES

    async def clear(self, delivery: Delivery) -> None:
        """Delete the tries of a message: it was handled, and its consumer still runs.

        Raises:
            DatabaseUnavailable
        """
        await blameless(poison.clear(self.database, identity_of(delivery)))
