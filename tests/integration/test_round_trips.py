"""The round trips to Postgres of a transaction that applies one event."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from consumers.registry import FAMILIES
from tests.support.applied_events import numbered
from tests.support.events import Document, buyback, order_created, ovoko, part_changed, return_updated
from tests.support.events import item as buyback_item
from tests.support.fault_proxy import FaultProxy
from tests.support.postgres_messages import PostgresWatch
from tests.support.protocol_watch import Direction, Piece
from tests.support.stack import Stack
from worker.pipeline.outcome import Applied
from worker.pipeline.transaction import apply_batch
from worker.postgres.durability import Flusher
from worker.postgres.pool import Database

# Messages of the protocol: the server answers each round trip with the first; the driver prepares a
# statement with the second.
READY, PARSE = b"Z", b"P"

# The statements are prepared by then.
WARM_UP = 3

# Other batches go on meanwhile.
FLUSH = 1


def numbered_order(number: int) -> Document:
    # The earliest creation counts.
    return {**order_created("1"), "timestamp": ovoko("order.created", -number)["timestamp"]}


def numbered_return(number: int) -> Document:
    return {**return_updated(number, "1"), "timestamp": ovoko("order.return.updated", number)["timestamp"]}


def numbered_reminder(number: int) -> Document:
    return buyback("OrderSchedulePickupReminderEvent", number, daysAfterCreation=1, order={"id": "o1"})


def numbered_buyback(number: int) -> Document:
    """It writes to all tables of its family, and requires a communication."""
    order = {"id": "o1", "items": [buyback_item()], "shipments": [{"trackingCode": "T1", "carrier": "UPS"}]}
    return buyback("CollectionItemReceivedEvent", number, itemId="i1", order=order)


@dataclass
class Messages:
    """Counts the messages of all connections by their type."""

    counts: Counter[bytes] = field(default_factory=Counter)

    def watch(self) -> "_Watch":
        return _Watch(self)


@dataclass
class _Watch:
    messages: Messages
    _watch: PostgresWatch = field(default_factory=PostgresWatch)

    def feed(self, direction: Direction, data: bytes) -> list[Piece]:
        pieces = self._watch.feed(direction, data)
        counted = READY if direction is Direction.TO_CLIENT else PARSE
        self.messages.counts[counted] += sum(message[:1] == counted for message, _ in pieces)
        return pieces


@pytest.mark.parametrize(
    ("family", "document", "round_trips"),
    [
        # BEGIN, claim, load, save, end, COMMIT.
        ("inventory", lambda number: part_changed("1", "sold", number), 6),
        ("orders", numbered_order, 6),
        ("returns", numbered_return, 6),
        ("reminders", numbered_reminder, 6),
        # Also items and shipments are loaded.
        ("buybacks", numbered_buyback, 8),
    ],
)
async def test_one_event_takes_few_round_trips(
    stack: Stack, family: str, document: Callable[[int], Any], round_trips: int
) -> None:
    url, messages = stack.environment["STOCKHOOK_DATABASE_URL"], Messages()
    with FaultProxy.before(url, watch=messages.watch) as proxy:
        database = Database(proxy.via(url), 2, "test")
        async with Flusher(database) as flusher:
            for number in range(1, WARM_UP + 2):
                messages.counts.clear()
                report = await apply_batch(
                    FAMILIES[family], flusher, [numbered(document(number), number)], record_changes=True
                )
                assert report.outcomes == (Applied(),)
                assert report.stale == 0
                assert report.durable is not None
                await report.durable
        await database.close()

    assert messages.counts == {READY: round_trips + FLUSH, PARSE: 0}
