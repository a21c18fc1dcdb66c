"""The rate of one consumer that drains queues of a cluster of three brokers, all on this machine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp

from deploy.local.packages import DownloadFailed
from deploy.local.programs import RabbitPrograms
from deploy.local.services import find_programs
from tests.bench import backlog
from tests.bench.backlog import Backlog
from tests.bench.broker import broker_line
from tests.bench.lineup import STOCKHOOK
from tests.bench.measures.drain import drain
from tests.bench.plan import Bench, NotAvailable
from tests.bench.results import Ratio
from tests.bench.world import World
from tests.support.rabbit_cluster import rabbit_cluster

MEASURE = "drain parts, one broker and a cluster"


@dataclass(frozen=True, slots=True)
class Brokers:
    name: str
    world: World
    made: Backlog


async def cluster(bench: Bench) -> None:
    """The single broker keeps running, idle, beside the cluster, and so does the cluster beside it."""
    programs = _programs(bench)
    made = await backlog.make(bench.world, ("inventory",), bench.options.events)
    bench.show.step("cluster: starting", "three brokers", 0, 1)
    async with _three(bench.world, programs) as world:
        bench.show.done("cluster: starting", 1)
        sides = (
            Brokers("one broker", bench.world, made),
            Brokers("three brokers", world, backlog.for_world(made, world)),
        )
        for side in bench.turns("cluster", sides):
            value = await drain(side.world, STOCKHOOK, side.made)
            bench.results.add(MEASURE, "events/s", side.name, value.rate, Ratio.THIS_BY_FIRST)


def _programs(bench: Bench) -> RabbitPrograms:
    """Raises: NotAvailable."""
    try:
        programs = find_programs(bench.show.say)
    except DownloadFailed as failure:
        raise NotAvailable(f"a cluster needs the programs of RabbitMQ: {failure}") from failure
    if programs is None:
        raise NotAvailable("a cluster needs the programs of RabbitMQ, installed or from apt")
    return programs.rabbitmq


@asynccontextmanager
async def _three(world: World, programs: RabbitPrograms) -> AsyncIterator[World]:
    """The same world with a cluster as its broker, in which each queue has a member on each node."""
    folder = Path(mkdtemp(dir=world.folder))
    stack = ExitStack()
    try:
        brokers = await asyncio.to_thread(stack.enter_context, rabbit_cluster(folder, programs))
        async with broker_line(brokers.nodes[0].url) as line:
            made = replace(world, line=line, services=replace(world.services, amqp_url=brokers.url))
            await made.declare()
            await asyncio.to_thread(brokers.wait_until_members_online)
            yield made
    finally:
        await asyncio.to_thread(stack.close)
