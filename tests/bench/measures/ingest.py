"""Events accepted and confirmed per second, and the duration of an answer."""

import asyncio
import pickle
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import backlog
from tests.bench.backlog import Backlog
from tests.bench.figures import Sample, percentile, rate, serial_rate
from tests.bench.lineup import (
    ANSWERING,
    BARE_PUBLISHER,
    BEHIND_GATEWAY,
    GATEWAY_SECRET,
    INGEST,
    INGESTS,
    Contestant,
)
from tests.bench.load import Prepared, play_at_once
from tests.bench.plan import Bench
from tests.bench.processes import Failed
from tests.bench.results import Ratio
from tests.bench.world import OVOKO_SECRET, World, free_port
from worker.amqp.queue_set import main_queue
from worker.config.gateway import read_key, read_scheme
from worker.intake.signature import sign

FAMILIES = ("inventory",)
QUEUES = [main_queue(family) for family in FAMILIES]

LIMIT, SERIAL_LIMIT = "ingest, compared with its serial limit", "only answers, then bare publish"

# The bare publisher's messages are the same in every round.
MESSAGES = 1_000


async def ingest(bench: Bench) -> None:
    count = bench.options.events // 2
    made = await backlog.make(bench.world, FAMILIES, MESSAGES)
    messages = prepare_messages(bench.world, made)
    requests = backlog.requests(bench.world, backlog.events_of(FAMILIES), count)
    signed = backlog.requests(bench.world, backlog.events_of(FAMILIES), count, _sign)
    for contestant in bench.turns("ingest", INGESTS):
        await bench.world.empty()
        if contestant is BARE_PUBLISHER:
            value = await _publish(bench.world, messages, count)
        else:
            sent = signed if contestant is BEHIND_GATEWAY else requests
            value = await accepted_per_second(bench, contestant, sent, "ingest", Ratio.PRODUCT_BY_THIS)
        bench.results.add("ingest", "events/s", contestant.name, value)
    _add_limit(bench)


def _add_limit(bench: Bench) -> None:
    """Beside the ingest's own rate, that of a process which does nothing but answer and publish."""
    rates = bench.results.measures["ingest"].values
    for ours, answering, publishing in zip(
        rates[INGEST.name], rates[ANSWERING.name], rates[BARE_PUBLISHER.name], strict=True
    ):
        bench.results.add(LIMIT, "events/s", INGEST.name, ours)
        bench.results.add(LIMIT, "events/s", SERIAL_LIMIT, serial_rate(answering, publishing))


def _sign(body: bytes) -> dict[str, str]:
    """The scheme has no timestamp, so that requests can be prepared before they are sent."""
    scheme = read_scheme(BEHIND_GATEWAY.environment["STOCKHOOK_GATEWAY"])
    return sign(scheme, [read_key(scheme, GATEWAY_SECRET)], body, sent_at=datetime.now(UTC))


def prepare_messages(world: World, made: Backlog) -> Path:
    path = world.folder / "messages.pickle"
    messages = [(stored.routing_key, stored.properties.headers, stored.body) for stored in made.messages]
    path.write_bytes(pickle.dumps(messages))
    return path


async def _publish(world: World, messages: Path, count: int) -> float:
    async with world.running(BARE_PUBLISHER, FAMILIES, count=count, messages=messages) as running:
        seen = await world.line.watch(QUEUES, lambda waiting: waiting >= count, running.check)
    return rate([Sample(at, waiting) for at, waiting in seen], count)


async def accepted_per_second(
    bench: Bench, contestant: Contestant, requests: list[Prepared], measure: str, ratio: Ratio
) -> float:
    """Events per second, calculated from the number of waiting messages; of ANSWERING, from its answers.

    Adds the duration of an answer.

    Raises:
        Failed: Events were answered 200 and are not in the queue.
    """
    world, count, port = bench.world, len(requests), free_port()
    async with world.running(contestant, port=port, secret=OVOKO_SECRET) as running:
        if contestant is ANSWERING:
            arrived = sorted((await play_at_once(port, requests)).arrived.values())
            return rate([Sample(at, done) for done, at in enumerate(arrived, 1)], count)
        watching = asyncio.create_task(
            world.line.watch(QUEUES, lambda waiting: waiting >= count, running.check)
        )
        answers = await play_at_once(port, requests)
        seen = await watching
    if (waiting := await world.line.ready(QUEUES)) != count:
        raise Failed(f"{contestant.name}: {count} events were answered 200, {waiting} are in the queue")
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        milliseconds = percentile(answers.seconds, share) * 1000
        bench.results.add(f"{measure}, answer {name}", "ms", contestant.name, milliseconds, ratio)
    return rate([Sample(at, waiting) for at, waiting in seen], count)
