"""The conditions of a run, as text for its report."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from deploy.local.process import PROC
from deploy.local.services import CHECKOUT
from tests.bench.lineup import CONSUMERS, INGESTS, OTHERS_PYTHON, WITHOUT_FEED
from tests.bench.plan import Options
from tests.bench.world import World

PACKAGES = ("aio-pika", "aiormq", "asyncpg", "faststream", "fastapi", "uvicorn")
VERSIONS = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"

Condition = tuple[str, str]


async def conditions(world: World, options: Options) -> list[Condition]:
    postgres = await world.database.fetchval("SHOW server_version")
    services = f"RabbitMQ {world.line.version}, Postgres {postgres}, both syncing to disk"
    load = " ".join(f"{average:.2f}" for average in os.getloadavg())
    return [
        ("command", command(sys.argv[1:])),
        ("date", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
        ("machine", f"{os.cpu_count()} cores for all processes ({_processor()}), {_memory()} of memory"),
        ("software", f"Python {platform.python_version()}, {services}"),
        ("checkout", _checkout()),
        ("load average at the start", load),
        ("packages", _versions()),
        *_rules(options),
        *((f"consumer: {each.name}", each.settings) for each in (*CONSUMERS, WITHOUT_FEED)),
        *((f"ingest: {each.name}", each.settings) for each in INGESTS),
    ]


def other_work(cores: Mapping[str, float]) -> str:
    """For each measure, the number of cores that other processes used."""
    return ", ".join(f"{name} {busy:.2f}" for name, busy in cores.items())


def durations(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {taken:.0f} s" for name, taken in seconds.items())


def command(arguments: Sequence[str]) -> str:
    """The command that repeats the run, without the options for its output."""
    shown, left = [], iter(arguments)
    for argument in left:
        if argument == "--save":
            next(left, None)
        elif argument not in ("--json", "--keep") and not argument.startswith("--save="):
            shown.append(argument)
    return f'make bench ARGS="{" ".join(shown)}"' if shown else "make bench"


def _processor() -> str:
    lines = (PROC / "cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def _checkout() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _versions() -> str:
    command = [str(OTHERS_PYTHON), "-c", VERSIONS, *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return ", ".join(f"{name} {version}" for name, version in zip(PACKAGES, done.stdout.split(), strict=True))


def _rules(options: Options) -> Iterator[Condition]:
    if options.is_quick:
        yield "small numbers", "this run only shows that the benchmark works"
    rounds = "1 round" if options.rounds == 1 else f"{options.rounds} rounds"
    yield "rounds", f"{rounds} with each contestant once; ratios are of the same round"
    yield (
        "targets",
        "not decided: some rounds keep the bound and others do not, or the machine has too few cores",
    )
    yield "queues", "quorum queues, the same messages for all, as the product's ingest published them"
    yield "rates", "between a tenth and nine tenths of the backlog, by the queues' own counts"
    yield "CPU per event", "user and system time of the consumer and of all processes of Postgres"
    yield "latency", "from the answer's arrival to the commit by Postgres's clock (before it is flushed)"
    yield "retries", "7, 35 and 175 s" if options.is_full else "1, 2 and 3 s; --full has 7, 35 and 175 s"
