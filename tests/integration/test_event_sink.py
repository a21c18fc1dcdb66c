"""The event sink with a real spool and a publisher that fails on demand."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.stack import until
from worker.amqp.channel import Message
from worker.amqp.errors import BrokerUnavailable
from worker.ingest.event_sink import NotStored, Storage
from worker.ingest.spool.spool import Spool


@dataclass
class Broker:
    """Replaces the publisher."""

    is_ready: bool = True
    fails: bool = False
    published: list[Message] = field(default_factory=list)

    async def publish(self, message: Message) -> None:
        if self.fails or not self.is_ready:
            raise BrokerUnavailable("as the test wants it")
        self.published.append(message)

    async def wait_ready(self) -> None:
        while not self.is_ready:
            await asyncio.sleep(0.01)


def message(number: int) -> Message:
    return Message("stockhook.events", "ovoko.order.created", "t", {"x-number": number}, b"{}")


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    async with Spool(tmp_path / "spool.sqlite3", 1_000_000) as opened:
        yield opened


async def drained(storage: Storage, broker: Broker) -> None:
    """Drain until the spool is empty."""
    stopping = asyncio.Event()
    draining = asyncio.create_task(storage.drain(stopping))
    assert storage.spool is not None

    async def is_empty() -> bool:
        return storage.spool is not None and storage.spool.depth == 0

    await until(is_empty, "the spool is drained")
    stopping.set()
    draining.cancel()
    await asyncio.wait([draining])


async def test_an_event_goes_to_the_broker_with_its_sequence_number(spool: Spool) -> None:
    broker = Broker()
    storage = Storage(broker, spool)
    for number in range(3):
        await storage.store(message(number), "orders")

    assert [sent.headers["x-place"] for sent in broker.published] == [1, 2, 3]
    assert len({sent.headers["x-stream"] for sent in broker.published}) == 1
    assert spool.depth == 0


async def test_an_unconfirmed_event_is_spooled_and_its_number_is_voided(
    spool: Spool,
) -> None:
    broker = Broker(fails=True)
    storage = Storage(broker, spool)
    await storage.store(message(0), "orders")
    broker.fails = False
    await storage.store(message(1), "orders")
    await drained(storage, broker)
    live, late = broker.published

    assert late.headers["x-stream"] == spool.source
    assert (live.headers["x-place"], late.headers["x-place"]) == (2, 1)
    assert late.headers["x-unused"] == f"{live.headers['x-stream']}:1"
    assert "x-unused" not in live.headers


async def test_an_entry_stays_in_the_spool_until_it_is_confirmed(spool: Spool) -> None:
    broker = Broker(is_ready=False)
    storage = Storage(broker, spool)
    for number in range(5):
        await storage.store(message(number), "orders")
    broker.is_ready, broker.fails = True, True
    stopping = asyncio.Event()
    draining = asyncio.create_task(storage.drain(stopping))
    await asyncio.sleep(0.3)
    entries = await spool.oldest(10)
    stopping.set()
    draining.cancel()
    await asyncio.wait([draining])
    broker.fails = False
    await drained(storage, broker)

    assert len(entries) == 5
    assert [sent.headers["x-number"] for sent in broker.published] == [0, 1, 2, 3, 4]


async def test_without_broker_and_spool_an_event_is_not_stored_and_a_later_message_voids_its_number() -> None:
    broker = Broker(fails=True)
    storage = Storage(broker, None)
    with pytest.raises(NotStored):
        await storage.store(message(0), "orders")
    broker.fails = False
    await storage.store(message(1), "orders")
    await storage.store(message(2), "orders")
    first, second = broker.published

    assert first.headers["x-unused"] == f"{first.headers['x-stream']}:1"
    assert "x-unused" not in second.headers


async def test_a_full_spool_refuses(tmp_path: Path) -> None:
    async with Spool(tmp_path / "spool.sqlite3", 100) as spool:
        storage = Storage(Broker(is_ready=False), spool)
        with pytest.raises(NotStored, match="entries have"):
            await storage.store(Message("e", "k", "t", {}, b"x" * 200), "orders")


async def test_an_event_for_the_quarantine_has_no_sequence_number(spool: Spool) -> None:
    broker = Broker()
    await Storage(broker, spool).store(message(0), None)

    assert "x-place" not in broker.published[0].headers
