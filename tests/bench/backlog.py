"""Backlogs: published once by the ingest, then copied into the queues for each run."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from operator import itemgetter

from consumers.registry import FAMILIES, FAMILY_OF
from schemas.events import routing_key
from schemas.registry import Provider
from tests.bench.broker import Stored, chunks
from tests.bench.lineup import INGEST, Contestant
from tests.bench.load import Prepared, play_at_once, prepared
from tests.bench.world import World, free_port
from worker.amqp.queue_set import main_queue
from worker.simulator import generator as marketplace
from worker.simulator.lifecycle import GeneratedEvent
from worker.simulator.webhook import Credentials

# The headers that sign a body.
Signer = Callable[[bytes], Mapping[str, str]]

ALL_FAMILIES = tuple(FAMILIES)
DUPLICATES = 0.1
SEED = 7


@dataclass(frozen=True, slots=True)
class Backlog:
    """`distinct` is how many of its messages are not repeats."""

    families: tuple[str, ...]
    messages: tuple[Stored, ...]
    wire: tuple[bytes, ...]
    distinct: int

    @property
    def queues(self) -> list[str]:
        return [main_queue(family) for family in self.families]

    def __len__(self) -> int:
        return len(self.messages)


def events_of(families: tuple[str, ...], seed: int = SEED) -> Iterator[GeneratedEvent]:
    """An endless sequence of generated events of these families."""
    for event in marketplace.events(seed):
        if FAMILY_OF[routing_key(event.provider, event.event_type)] in families:
            yield event


def requests(
    world: World, events: Iterator[GeneratedEvent], count: int, sign: Signer = lambda _body: {}
) -> list[Prepared]:
    """`sign` adds headers."""
    credentials = Credentials.of(world.settings, tuple(Provider))
    webhooks = (
        credentials.webhook(event.provider, event.event_type, event.body) for event in islice(events, count)
    )
    return [
        prepared(replace(webhook, headers={**webhook.headers, **sign(webhook.body)}), str(number))
        for number, webhook in enumerate(webhooks)
    ]


async def make(
    world: World,
    families: tuple[str, ...],
    count: int,
    *,
    repeats: bool = False,
    ingest: Contestant = INGEST,
    events: Iterator[GeneratedEvent] | None = None,
) -> Backlog:
    """Send `count` webhooks to the ingest, and return the messages that it published.

    By default, the events are those of a generated marketplace.
    """
    events = events_of(families) if events is None else events
    if repeats:
        events = marketplace.scrambled(events, duplicates=DUPLICATES, shuffle=False, seed=SEED)
    await world.empty()
    port = free_port()
    async with world.running(ingest, port=port):
        await play_at_once(port, requests(world, events, count))
    queues = [main_queue(family) for family in families]
    messages = interleaved(await world.line.take_all(queues, count))
    distinct = len({message.event_id for message in messages})
    wire = chunks(messages, world.line.channel.number)
    return Backlog(families, tuple(messages), tuple(wire), distinct)


def interleaved(messages: Iterable[Stored]) -> list[Stored]:
    """The messages of all queues, mixed evenly; each queue keeps its order."""
    by_queue: defaultdict[str, list[Stored]] = defaultdict(list)
    for message in messages:
        by_queue[message.queue].append(message)
    placed = [
        (place / len(queued), message) for queued in by_queue.values() for place, message in enumerate(queued)
    ]
    return [message for _, message in sorted(placed, key=itemgetter(0))]


def for_world(backlog: Backlog, world: World) -> Backlog:
    """The same messages, encoded for the connection to another broker."""
    return replace(backlog, wire=tuple(chunks(backlog.messages, world.line.channel.number)))


async def lay(world: World, backlog: Backlog) -> None:
    """Publish the backlog; return when all its messages wait in the queues."""
    await world.line.publish(backlog.wire)
    await world.line.watch(backlog.queues, lambda waiting: waiting >= len(backlog), lambda: None)
