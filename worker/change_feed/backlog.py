"""What the change feed owes: changes that are not published yet, and what waits for each webhook."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from worker.amqp.connection import BrokerConnection
from worker.amqp.queue_set import QueueSet
from worker.config.settings import Settings
from worker.config.subscribers import origin_of
from worker.postgres.pool import Connection

# One statement sees one state: a change is counted as committed with its row, and as published without.
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

# A repeat changes the time alone.
NOTE_WEBHOOK = """
INSERT INTO webhooks (name)
VALUES ($1)
ON CONFLICT (name) DO UPDATE
SET seen_at = now()
"""

KNOWN_WEBHOOKS = "SELECT name FROM webhooks ORDER BY name"


@dataclass(frozen=True, slots=True)
class ChangeCounts:
    """The changes of one family, since they are counted. `oldest_seconds` is None where none waits."""

    family: str
    committed: int
    published: int
    waiting: int
    oldest_seconds: float | None

    @property
    def missing(self) -> int:
        """Committed, and neither confirmed by the broker nor waiting to be."""
        return max(0, self.committed - self.published - self.waiting)


@dataclass(frozen=True, slots=True)
class Webhook:
    """What waits for a subscriber over HTTP, by place. None: the queue does not exist.

    One that is not `configured` was once: nobody delivers to it, and its queue fills. `dead_kept` are
    dead letters that wait in the table.
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
        """Whether it fills for nobody."""
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
    """Of each family."""
    return tuple(
        ChangeCounts(row["family"], row["committed"], row["published"], row["waiting"], row["seconds"])
        for row in await connection.fetch(CHANGE_COUNTS)
    )


async def known_webhooks(connection: Connection) -> list[str]:
    """The names of all that were ever delivered to."""
    return [row["name"] for row in await connection.fetch(KNOWN_WEBHOOKS)]


async def webhooks(
    link: BrokerConnection, settings: Settings, known: Iterable[str], kept: Mapping[str, int]
) -> tuple[Webhook, ...]:
    """Those in the settings, and the known ones that have queues. `kept` are dead letters by origin.

    Raises:
        BrokerUnavailable
    """
    configured = set(settings.webhook_names)
    found = [
        await _webhook(
            link,
            name,
            QueueSet.of(origin_of(name), settings.delays),
            kept.get(origin_of(name), 0),
            configured=name in configured,
        )
        for name in sorted({*known, *configured})
    ]
    return tuple(webhook for webhook in found if webhook.configured or webhook.queue is not None)


async def feed(
    link: BrokerConnection, connection: Connection, settings: Settings, kept: Mapping[str, int]
) -> Feed:
    """Ask broker and database. `kept` are dead letters in the table, by origin.

    Raises:
        BrokerUnavailable
        DatabaseUnavailable
    """
    known = await known_webhooks(connection)
    return Feed(await change_counts(connection), await webhooks(link, settings, known, kept))


async def _webhook(
    link: BrokerConnection, name: str, queues: QueueSet, dead_kept: int, *, configured: bool
) -> Webhook:
    depths = await link.depths(queues.names)
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
    """What is to be said of a queue that nobody delivers from."""
    return f"no longer in STOCKHOOK_CHANGES_WEBHOOKS, and fills: `stockhook changes forget {name}`"
