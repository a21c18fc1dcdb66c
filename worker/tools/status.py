"""What `stockhook status` shows: broker, database, queues with their retry queues, rows."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import httpx
from pydantic import BaseModel, ConfigDict, Field

from consumers.registry import FAMILIES
from schemas.events import read_model
from worker.amqp.channel import QueueDepth
from worker.amqp.connection import Broker
from worker.amqp.errors import BrokerUnavailable
from worker.amqp.queue_set import QueueSet
from worker.amqp.topology import ACTIONS, QUARANTINE
from worker.change_feed.backlog import (
    ChangeCounts,
    Webhook,
    change_counts,
    known_webhooks,
    webhooks,
)
from worker.config.settings import Settings
from worker.dead_letters.message import QUARANTINE_ORIGIN
from worker.dead_letters.store import waiting_by_origin
from worker.dead_letters.unhandled_store import count_by_type
from worker.observability.errors import safe_summary
from worker.postgres import pauses
from worker.postgres.errors import PostgresError, UndefinedTableError
from worker.postgres.failures import DatabaseUnavailable
from worker.postgres.pauses import Pause
from worker.postgres.pool import Connection, Database

COUNTED_TABLES = (
    "event_log",
    *(table.name for family in FAMILIES.values() for table in family.tables),
    "communications",
    "findings",
    "dead_letters",
    "unhandled_events",
    "actions",
)

COUNT_ROWS = "\nUNION ALL\n".join(
    f"SELECT '{table}' AS name, count(*) AS rows FROM {table}" for table in COUNTED_TABLES
)

LAST_LOGGED = """
SELECT max(last_received_at) AS received_at
FROM event_sequences
WHERE family = $1
"""


@dataclass(frozen=True, slots=True)
class FamilyStatus:
    """Numbers of waiting messages. None: the queue does not exist.

    `dead_kept` is the number of its dead letters in the table. `oldest_waiting_seconds` is the maximum age
    of the oldest event in the family queue: queues are first in, first out, so waiting events were received
    after the last logged one. `paused` is the pause by a user, if there is one.
    """

    family: str
    queue: int | None
    consumers: int
    retry: dict[str, int | None]
    dead: int | None
    dead_kept: int
    oldest_waiting_seconds: float | None
    paused: Pause | None


@dataclass(frozen=True, slots=True)
class UnhandledStatus:
    """Counts of unhandled events, of their types, and of those that a family handles now."""

    events: int = 0
    types: int = 0
    replayable: int = 0

    def as_text(self) -> str:
        text = f"{self.events:,} events of {self.types:,} types"
        if self.replayable:
            text += (
                f", {self.replayable:,} of types that a family handles now (stockhook unhandled replay --all)"
            )
        return text


@dataclass(frozen=True, slots=True)
class Status:
    broker: str
    database: str
    ingest: str
    spool: dict[str, Any] | None
    quarantine: int | None
    quarantine_kept: int
    unhandled: UnhandledStatus
    families: tuple[FamilyStatus, ...]
    changes: tuple[ChangeCounts, ...]
    webhooks: tuple[Webhook, ...]
    rows: dict[str, int]

    @property
    def is_well(self) -> bool:
        return self.broker == self.database == "reachable"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Stored:
    """The last logged event and the pause by family; rows by table; waiting dead letters by origin."""

    database_text: str
    last_logged: Mapping[str, datetime] = field(default_factory=dict)
    pauses: Mapping[str, Pause] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    unhandled: UnhandledStatus = UnhandledStatus()
    changes: tuple[ChangeCounts, ...] = ()
    webhooks: Sequence[str] = ()


async def query_status(broker: Broker, database: Database, settings: Settings) -> Status:
    """Query broker and database. What cannot be reached is reported, and nothing is raised."""
    stored = await _query_database(database)
    subscribers: tuple[Webhook, ...] = ()
    families: list[FamilyStatus] = []
    quarantine: int | None = None
    broker_text = "reachable"
    try:
        async with broker.connection() as connection:
            for family in (*FAMILIES, ACTIONS):
                queues = QueueSet.of(family, settings.delays)
                depths = await connection.depths(queues.names)
                families.append(_family_status(queues, depths, stored))
            quarantine = _ready(await connection.depth(QUARANTINE))
            subscribers = await webhooks(connection, settings, stored.webhooks, stored.dead_letters)
    except BrokerUnavailable as error:
        broker_text = f"unreachable ({error})"
    ingest_text, spool = await query_ingest(settings.ingest_readiness_urls)
    return Status(
        broker_text,
        stored.database_text,
        ingest_text,
        spool,
        quarantine,
        stored.dead_letters.get(QUARANTINE_ORIGIN, 0),
        stored.unhandled,
        tuple(families),
        stored.changes,
        subscribers,
        stored.rows,
    )


class _Spool(BaseModel):
    model_config = ConfigDict(extra="allow")

    events: int
    bytes: int
    oldest_seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None


class _Ingest(BaseModel):
    """The answer of the ingest's `/readyz`, or of another server on its port."""

    status: str
    publishing: bool
    spool: _Spool | None


async def query_ingest(urls: Sequence[str]) -> tuple[str, dict[str, Any] | None]:
    """The state of the ingest as text, and its spool; None if it does not answer.

    The URLs are those of its `/readyz` on this machine; its certificate, which is for another name, proves
    nothing here.
    """
    answer: _Ingest | None = None
    async with httpx.AsyncClient(timeout=5, trust_env=False, verify=False) as client:
        for url in urls:
            with suppress(httpx.HTTPError, ValueError):
                answer = read_model(_Ingest, (await client.get(url)).content)
                break
    if answer is None:
        return "does not answer", None
    publishing = (
        "publishing" if answer.publishing else "spooling: the broker is unavailable, or confirms nothing"
    )
    spool = None if answer.spool is None else answer.spool.model_dump()
    return publishing if answer.status == "ready" else answer.status, spool


def _family_status(
    queues: QueueSet, depths: Mapping[str, QueueDepth | None], stored: _Stored
) -> FamilyStatus:
    queue, last_logged = depths[queues.main], stored.last_logged.get(queues.origin)
    waits = queue is not None and queue.ready > 0
    age = (datetime.now(UTC) - last_logged).total_seconds() if waits and last_logged else None
    return FamilyStatus(
        family=queues.origin,
        queue=_ready(queue),
        consumers=queue.consumers if queue else 0,
        retry={retry.step: _ready(depths[retry.name]) for retry in queues.retries},
        dead=_ready(depths[queues.dead]),
        dead_kept=stored.dead_letters.get(queues.origin, 0),
        oldest_waiting_seconds=age,
        paused=stored.pauses.get(queues.origin),
    )


def _ready(depth: QueueDepth | None) -> int | None:
    return None if depth is None else depth.ready


async def _query_database(database: Database) -> _Stored:
    try:
        async with database.connection() as connection:
            rows = {row["name"]: row["rows"] for row in await connection.fetch(COUNT_ROWS)}
            dead_letters = await waiting_by_origin(connection)
            types = await count_by_type(connection)
            return _Stored(
                "reachable",
                await last_logged(connection),
                await pauses.read_all(connection),
                rows,
                dead_letters,
                UnhandledStatus(
                    events=sum(one.events for one in types),
                    types=len(types),
                    replayable=sum(one.events for one in types if one.family is not None),
                ),
                await change_counts(connection),
                await known_webhooks(connection),
            )
    except DatabaseUnavailable as error:
        return _Stored(f"unreachable ({error})")
    except UndefinedTableError:
        return _Stored("not migrated: run `stockhook migrate`")
    except PostgresError as error:
        return _Stored(f"failed ({safe_summary(error)})")


async def last_logged(connection: Connection) -> dict[str, datetime]:
    """When the last logged event of each family was received."""
    instants: dict[str, datetime] = {}
    for family in FAMILIES:
        received_at = await connection.fetchval(LAST_LOGGED, family)
        if received_at is not None:
            instants[family] = received_at
    return instants
