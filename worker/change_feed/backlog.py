"""What the change feed owes: changes that are not published yet, and what waits for each webhook."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from worker.amqp.connection import BrokerConnection
from worker.amqp.topology import (
    dead_queue,
    family_queue,
    retry_queue,
    step_name,
)
from worker.config.subscribers import lane_of
from worker.postgres.pool import Connection

# One statement sees one state: a change is counted as committed with its row, and as published without.
LANES = """
SELECT family, coalesce(waiting.changes, 0) AS waiting, waiting.seconds,
    coalesce(counted.committed, 0) AS committed, coalesce(counted.published, 0) AS published
FROM change_lanes AS lane
CROSS JOIN LATERAL (
    SELECT sum(size)::bigint AS changes, extract(epoch FROM now() - min(changed_at))::float8 AS seconds
    FROM changes
    WHERE changes.family = lane.family
) AS waiting
CROSS JOIN LATERAL (
    SELECT (sum(changes) FILTER (WHERE fate = 'committed'))::bigint AS committed,
        (sum(changes) FILTER (WHERE fate = 'published'))::bigint AS published
    FROM change_counts
    WHERE change_counts.family = lane.family
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
class Lane:
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
    """Lanes and webhooks together, as `stockhook audit` shows them."""

    lanes: tuple[Lane, ...]
    webhooks: tuple[Webhook, ...]

    @property
    def missing(self) -> int:
        return sum(lane.missing for lane in self.lanes)

    def as_json(self) -> dict[str, Any]:
        lanes = [{**asdict(lane), "missing": lane.missing} for lane in self.lanes]
        return {"lanes": lanes, "webhooks": [asdict(webhook) for webhook in self.webhooks]}


async def lanes(connection: Connection) -> tuple[Lane, ...]:
    """Of each family."""
    return tuple(
        Lane(row["family"], row["committed"], row["published"], row["waiting"], row["seconds"])
        for row in await connection.fetch(LANES)
    )


async def known_webhooks(connection: Connection) -> list[str]:
    """The names of all that were ever delivered to."""
    return [row["name"] for row in await connection.fetch(KNOWN_WEBHOOKS)]


async def webhooks(
    link: BrokerConnection,
    known: Iterable[str],
    configured: Iterable[str],
    kept: Mapping[str, int],
    delays: Sequence[timedelta],
) -> tuple[Webhook, ...]:
    """Those of these names that are in the settings, or have queues. `kept` are dead letters by lane.

    Raises:
        BrokerUnavailable
    """
    expected = set(configured)
    found = [
        await _webhook(link, name, kept.get(lane_of(name), 0), delays, configured=name in expected)
        for name in sorted({*known, *expected})
    ]
    return tuple(webhook for webhook in found if webhook.configured or webhook.queue is not None)


async def feed(
    link: BrokerConnection,
    connection: Connection,
    configured: Iterable[str],
    kept: Mapping[str, int],
    delays: Sequence[timedelta],
) -> Feed:
    """Ask broker and database. `kept` are dead letters in the table, by lane.

    Raises:
        BrokerUnavailable
        DatabaseUnavailable
    """
    known = await known_webhooks(connection)
    return Feed(await lanes(connection), await webhooks(link, known, configured, kept, delays))


async def _webhook(
    link: BrokerConnection, name: str, dead_kept: int, delays: Sequence[timedelta], *, configured: bool
) -> Webhook:
    lane = lane_of(name)
    steps = {step_name(delay): retry_queue(lane, delay) for delay in delays}
    depths = await link.depths([family_queue(lane), *steps.values(), dead_queue(lane)])
    ready = {queue: None if depth is None else depth.ready for queue, depth in depths.items()}
    first = depths[family_queue(lane)]
    return Webhook(
        name=name,
        configured=configured,
        queue=ready[family_queue(lane)],
        retry={step: ready[queue] for step, queue in steps.items()},
        dead=ready[dead_queue(lane)],
        dead_kept=dead_kept,
        consumers=first.consumers if first else 0,
    )


def left_behind(name: str) -> str:
    """What is to be said of a queue that nobody delivers from."""
    return f"no longer in STOCKHOOK_CHANGES_WEBHOOKS, and fills: `stockhook changes forget {name}`"
