"""A hand-written handler: an inbox row and a guarded upsert, in one commit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from uuid import UUID

import asyncpg

from consumers.registry import FAMILY_OF
from schemas.event_schema import Payload
from schemas.events import parse
from schemas.ovoko import PartStatusChanged
from schemas.registry import Provider

TABLES = """
CREATE TABLE bench_inbox (
    event_id uuid PRIMARY KEY
);
CREATE TABLE bench_entities (
    family text NOT NULL,
    entity_id text NOT NULL,
    state text NOT NULL,
    occurred_at timestamptz NOT NULL,
    event_id uuid NOT NULL,
    PRIMARY KEY (family, entity_id)
);
"""

# A repeated event finds its row and changes nothing.
CLAIM = """
INSERT INTO bench_inbox (event_id)
VALUES ($1)
ON CONFLICT (event_id) DO NOTHING
"""

SAVE = """
INSERT INTO bench_entities AS known (family, entity_id, state, occurred_at, event_id)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (family, entity_id) DO UPDATE
SET state = excluded.state,
    occurred_at = excluded.occurred_at,
    event_id = excluded.event_id
WHERE known.occurred_at <= excluded.occurred_at
"""


@dataclass(frozen=True, slots=True)
class Applying:
    pool: "asyncpg.Pool[asyncpg.Record]"

    @classmethod
    async def connect(cls, database_url: str, size: int) -> Self:
        """All connections are opened immediately. asyncpg prepares each statement once per connection."""
        return cls(await asyncpg.create_pool(database_url, min_size=size, max_size=size))

    async def apply(self, message_type: str, headers: Mapping[str, object], body: bytes) -> None:
        """Validate, claim, save, commit: one transaction per event."""
        payload = parse(Provider(str(headers["x-provider"])), body)
        event_id = UUID(str(headers["x-event-id"]))
        async with self.pool.acquire() as connection, connection.transaction():
            if await connection.execute(CLAIM, event_id) == "INSERT 0 1":
                await connection.execute(
                    SAVE,
                    FAMILY_OF[message_type],
                    payload.entity_id,
                    _state(payload, message_type),
                    payload.occurred_at,
                    event_id,
                )


def _state(payload: Payload, message_type: str) -> str:
    return payload.event_data.status if isinstance(payload, PartStatusChanged) else message_type
