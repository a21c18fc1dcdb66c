"""The backlog of the change feed: unpublished changes, and what waits for each webhook."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from worker.amqp.connection import BrokerConnection
from worker.amqp.queue_set import QueueSet
from worker.config.settings import Settings
from worker.config.subscribers import origin_of
from worker.postgres.pool import Connection

# One statement, so that one snapshot has both counts: a change has a row until it counts as published.
CHANGE_COUNTS = """
SELECT family, coalesce(waiting.changes, 0) AS waiting, waiting.seconds,
    coalesce(counted.committed, 0) AS committed, coalesce(counted.published, 0) AS published
FROM change_locks AS locks
CROSS JOIN LATERAL (
    SELECT sum(size)::bigint AS changes, extract(epoch FROM now() - min(changed_at))::float8 AS seconds
    FROM changes
    WHERE changes.family = locks.family
) AS waiting
CROSS JOIN LATERAL (
    SELECT (sum(changes) FILTER (WHERE state = 'committed'))::bigint AS committed,
        (sum(changes) FILTER (WHERE state = 'published'))::bigint AS published
    FROM change_counts
    WHERE change_counts.family = locks.family
) AS counted
ORDER BY family
"""

# A repeat changes only the time.
NOTE_WEBHOOK = """
INSERT INTO webhooks (name)
VALUES ($1)
ON CONFLICT (name) DO UPDATE
SET seen_at = now()
"""

KNOWN_WEBHOOKS = "SELECT name FROM webhooks ORDER BY name"


@dataclass(frozen=True, slots=True)
class ChangeCounts:
    """Counts of one family's changes. `oldest_seconds` is None if none waits."""

    family: str
    committed: int
    published: int
    waiting: int
    oldest_seconds: float | None

    @property
    def missing(self) -> int:
        """Changes that were committed, and are neither confirmed by the broker nor waiting."""
        return max(0, self.committed - self.published - self.waiting)


@dataclass(frozen=True, slots=True)
class Webhook:
    """Numbers of messages that wait for a subscriber over HTTP. None: the queue does not exist.

    A subscriber that is not `configured` was configured earlier: its queue fills. `dead_kept` is the number
    of dead letters in the table.
    """

    name: str
    configured: bool
    queue: int | None
    retry: dict[str, int | None]
    dead: int | None
    dead_kept: int
    consumers: int

    @property
    def is_left_behind(self) -> bool:
        """Whether the queue fills although the subscriber is not configured."""
        return not self.configured and self.queue is not None


@dataclass(frozen=True, slots=True)
class Feed:
    """Change counts and webhooks together, as `stockhook audit` shows them."""

    families: tuple[ChangeCounts, ...]
    webhooks: tuple[Webhook, ...]

    @property
    def missing(self) -> int:
        return sum(counts.missing for counts in self.families)

    def as_json(self) -> dict[str, Any]:
        families = [{**asdict(counts), "missing": counts.missing} for counts in self.families]
        return {"families": families, "webhooks": [asdict(webhook) for webhook in self.webhooks]}


async def change_counts(connection: Connection) -> tuple[ChangeCounts, ...]:
    return tuple(
        ChangeCounts(row["family"], row["committed"], row["published"], row["waiting"], row["seconds"])
        for row in await connection.fetch(CHANGE_COUNTS)
    )


async def known_webhooks(connection: Connection) -> list[str]:
    return [row["name"] for row in await connection.fetch(KNOWN_WEBHOOKS)]


async def webhooks(
    broker_connection: BrokerConnection,
    settings: Settings,
    recorded: Iterable[str],
    dead_letters: Mapping[str, int],
) -> tuple[Webhook, ...]:
    """The webhooks with these names that are in the settings, or have queues.

    `dead_letters` are counts by origin.

    Raises:
        BrokerUnavailable
    """
    configured = set(settings.webhook_names)
    all_webhooks = [
        await _webhook(
            broker_connection,
            name,
            QueueSet.of(origin_of(name), settings.delays),
            dead_letters.get(origin_of(name), 0),
            configured=name in configured,
        )
        for name in sorted({*recorded, *configured})
    ]
    return tuple(webhook for webhook in all_webhooks if webhook.configured or webhook.queue is not None)


async def feed(
    broker_connection: BrokerConnection,
    connection: Connection,
    settings: Settings,
    dead_letters: Mapping[str, int],
) -> Feed:
    """Query broker and database. `dead_letters` are counts from the table, by origin.

    Raises:
        BrokerUnavailable
        DatabaseUnavailable
    """
    recorded = await known_webhooks(connection)
    return Feed(
        await change_counts(connection), await webhooks(broker_connection, settings, recorded, dead_letters)
    )


async def _webhook(
    broker_connection: BrokerConnection, name: str, queues: QueueSet, dead_kept: int, *, configured: bool
) -> Webhook:
    depths = await broker_connection.depths(queues.names)
    ready = {queue: None if depth is None else depth.ready for queue, depth in depths.items()}
    main = depths[queues.main]
    return Webhook(
        name=name,
        configured=configured,
        queue=ready[queues.main],
        retry={retry.step: ready[retry.name] for retry in queues.retries},
        dead=ready[queues.dead],
        dead_kept=dead_kept,
        consumers=main.consumers if main else 0,
    )


def left_behind(name: str) -> str:
    """The message for a queue whose subscriber is not configured."""
    return (
        "it is no longer in STOCKHOOK_CHANGES_WEBHOOKS, and its queue fills: "
        f"`stockhook changes forget {name}`"
    )
