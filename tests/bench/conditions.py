"""The conditions of a run, as text for its report."""

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping

from tests.bench.lineup import CONSUMERS, INGESTS, OTHERS_PYTHON
from tests.bench.plan import Options
from tests.bench.world import World

PACKAGES = ("aio-pika", "aiormq", "asyncpg", "faststream", "fastapi", "uvicorn")
VERSIONS = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"

Condition = tuple[str, str]


async def conditions(world: World, options: Options) -> list[Condition]:
    postgres = await world.database.fetchval("SHOW server_version")
    services = f"RabbitMQ {world.line.version}, Postgres {postgres}, both syncing to disk"
    return [
        ("machine", f"{os.cpu_count()} cores for all of it, Python {platform.python_version()}, {services}"),
        ("packages", _versions()),
        *_rules(options),
        *{contestant.name: contestant.settings for contestant in (*CONSUMERS, *INGESTS)}.items(),
    ]


def other_work(cores: Mapping[str, float]) -> str:
    """For each measure, the number of cores that other processes used."""
    return ", ".join(f"{name} {busy:.2f}" for name, busy in cores.items()) + " cores"


def _versions() -> str:
    command = [str(OTHERS_PYTHON), "-c", VERSIONS, *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return ", ".join(f"{name} {version}" for name, version in zip(PACKAGES, done.stdout.split(), strict=True))


def _rules(options: Options) -> Iterator[Condition]:
    if options.is_quick:
        yield "small numbers", "this run only shows that the benchmark works"
    yield "turns", f"{options.rounds} rounds with each contestant once; ratios are of the same round"
    yield "queues", "quorum queues, the same messages for all, as the product's ingest published them"
    yield "rates", "between a tenth and nine tenths of the backlog, by the queues' own counts"
    yield "latency", "from the answer's arrival to the commit by Postgres's clock (before it is flushed)"
    yield "retries", "7, 35 and 175 s" if options.is_full else "1, 2 and 3 s; --full has 7, 35 and 175 s"
