"""What `stockhook status` shows: broker, database, queues with their retry queues, rows."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import httpx
from pydantic import BaseModel, ConfigDict, Field

from consumers.registry import FAMILIES
from schemas.events import read_model
from worker.amqp.channel import QueueDepth
from worker.amqp.connection import Broker
from worker.amqp.errors import BrokerUnavailable
from worker.amqp.queue_labels import queues_of
from worker.amqp.topology import (
    ACTIONS,
    QUARANTINE,
    dead_queue,
    family_queue,
    retry_queue,
    step_name,
)
from worker.change_feed.backlog import (
    ChangeCounts,
    Webhook,
    change_counts,
    known_webhooks,
    webhooks,
)
from worker.dead_letters.message import QUARANTINE_ORIGIN
from worker.dead_letters.store import waiting_by_origin
from worker.dead_letters.unhandled_store import count_by_type
from worker.observability.errors import safe_summary
from worker.postgres.errors import PostgresError, UndefinedTableError
from worker.postgres.pool import Connection, Database, DatabaseUnavailable

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
    """Messages that wait, by place. None: the queue does not exist.

    `dead_kept` are those of its dead letters that wait in the table, no longer on the broker.

    `oldest_waiting_seconds` is the age that the oldest event in the family queue has at most. A queue
    gives out what came first, so whatever waits was received after the last event that was logged.
    """

    family: str
    queue: int | None
    consumers: int
    retry: dict[str, int | None]
    dead: int | None
    dead_kept: int
    oldest_waiting_seconds: float | None


@dataclass(frozen=True, slots=True)
class UnhandledStatus:
    """Events of types that no family took when they came, how many types, and how many one takes now."""

    events: int = 0
    types: int = 0
    replayable: int = 0

    def as_text(self) -> str:
        text = f"{self.events:,} events of {self.types:,} types"
        if self.replayable:
            text += (
                f", {self.replayable:,} of types that a family takes now (stockhook unhandled replay --all)"
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
    """By family when its last event was logged; rows by table; dead letters that wait by origin."""

    words: str
    last_logged: Mapping[str, datetime] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)
    unhandled: UnhandledStatus = UnhandledStatus()
    changes: tuple[ChangeCounts, ...] = ()
    webhooks: Sequence[str] = ()


async def look(
    broker: Broker,
    database: Database,
    delays: Sequence[timedelta],
    ingest_urls: Sequence[str],
    webhook_names: Sequence[str],
) -> Status:
    """Ask the broker and the database; what cannot be reached is said, not raised."""
    stored = await _look_at_database(database)
    subscribers: tuple[Webhook, ...] = ()
    families: list[FamilyStatus] = []
    quarantine: int | None = None
    broker_words = "reachable"
    try:
        async with broker.connection() as link:
            for family in (*FAMILIES, ACTIONS):
                depths = await link.depths([one.queue for one in queues_of(family, delays)])
                last_logged, dead_kept = stored.last_logged.get(family), stored.kept.get(family, 0)
                families.append(_family_status(family, depths, delays, last_logged, dead_kept))
            quarantine = _ready(await link.depth(QUARANTINE))
            subscribers = await webhooks(link, stored.webhooks, webhook_names, stored.kept, delays)
    except BrokerUnavailable as error:
        broker_words = f"unreachable ({error})"
    ingest_words, spool = await look_at_ingest(ingest_urls)
    return Status(
        broker_words,
        stored.words,
        ingest_words,
        spool,
        quarantine,
        stored.kept.get(QUARANTINE_ORIGIN, 0),
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
    """What `/readyz` of the ingest says, or whatever else listens on its port."""

    status: str
    publishing: bool
    spool: _Spool | None


async def look_at_ingest(urls: Sequence[str]) -> tuple[str, dict[str, Any] | None]:
    """In words how the ingest is, and what is in its spool; None where it does not say.

    The URLs are those of its `/readyz` on this machine; its certificate, which is for another name, proves
    nothing here.
    """
    told: _Ingest | None = None
    async with httpx.AsyncClient(timeout=5, trust_env=False, verify=False) as client:
        for url in urls:
            with suppress(httpx.HTTPError, ValueError):
                told = read_model(_Ingest, (await client.get(url)).content)
                break
    if told is None:
        return "does not answer", None
    publishing = "publishing" if told.publishing else "spooling: the broker is away, or confirms nothing"
    spool = None if told.spool is None else told.spool.model_dump()
    return publishing if told.status == "ready" else told.status, spool


def _family_status(
    family: str,
    depths: Mapping[str, QueueDepth | None],
    delays: Sequence[timedelta],
    last_logged: datetime | None,
    dead_kept: int,
) -> FamilyStatus:
    queue = depths[family_queue(family)]
    waits = queue is not None and queue.ready > 0
    age = (datetime.now(UTC) - last_logged).total_seconds() if waits and last_logged else None
    return FamilyStatus(
        family=family,
        queue=_ready(queue),
        consumers=queue.consumers if queue else 0,
        retry={step_name(delay): _ready(depths[retry_queue(family, delay)]) for delay in delays},
        dead=_ready(depths[dead_queue(family)]),
        dead_kept=dead_kept,
        oldest_waiting_seconds=age,
    )


def _ready(depth: QueueDepth | None) -> int | None:
    return None if depth is None else depth.ready


async def _look_at_database(database: Database) -> _Stored:
    try:
        async with database.connection() as connection:
            rows = {row["name"]: row["rows"] for row in await connection.fetch(COUNT_ROWS)}
            kept = await waiting_by_origin(connection)
            types = await count_by_type(connection)
            return _Stored(
                "reachable",
                await _last_logged(connection),
                rows,
                kept,
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
        return _Stored("not migrated: type `stockhook migrate`")
    except PostgresError as error:
        return _Stored(f"does not answer this ({safe_summary(error)})")


async def _last_logged(connection: Connection) -> dict[str, datetime]:
    found: dict[str, datetime] = {}
    for family in FAMILIES:
        received_at = await connection.fetchval(LAST_LOGGED, family)
        if received_at is not None:
            found[family] = received_at
    return found
