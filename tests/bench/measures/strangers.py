"""The effect of 600 unauthenticated connections on latency, and of 600 large bodies on memory."""

import asyncio
import gzip
import random
import ssl
import string
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import orjson

from deploy.local.process import PROC
from tests.bench import backlog
from tests.bench.backlog import events_of
from tests.bench.figures import percentile
from tests.bench.lineup import INGEST
from tests.bench.load import Prepared, play_at_rate
from tests.bench.measures.memory import MEBIBYTE
from tests.bench.plan import Bench
from tests.bench.processes import Failed, Running
from tests.bench.results import Ratio
from tests.bench.strangers import CONNECTIONS, PAUSE_SECONDS
from tests.bench.world import BUYBACK_TOKEN, OVOKO_SECRET, World, free_port
from tests.support.authority import make_authority
from worker.amqp.queue_set import main_queue
from worker.amqp.topology import QUARANTINE

FAMILIES = ("inventory",)
RATE = 100
SECONDS, QUICK_SECONDS = 20, 4
WARM_UP = 200
START_SECONDS = 30.0

BODIES = 600
BODY_BYTES = 250_000
LONGEST_SECONDS = 120.0

REUSED = "p99 at 100 webhooks/s, connections kept open"
EACH_NEW = "p99 at 100 webhooks/s, each on a new connection"
MEMORY = "peak memory of the ingest with 600 bodies of 250 kB"


@dataclass(frozen=True, slots=True)
class Side:
    """A contestant: `proxies` are the proxies that the ingest trusts."""

    name: str
    has_strangers: bool
    proxies: str = ""


ALONE = Side("alone", has_strangers=False)
SIDES = (
    ALONE,
    Side("beside 600 strangers", has_strangers=True),
    Side("through a trusted proxy, beside 600 strangers", has_strangers=True, proxies="127.0.0.1"),
)


@dataclass(frozen=True, slots=True)
class Flood:
    """The same request 600 times concurrently; `statuses` are the allowed answers."""

    name: str
    head: str
    body: bytes
    statuses: frozenset[int]
    is_encrypted: bool = False


async def strangers(bench: Bench) -> None:
    seconds = QUICK_SECONDS if bench.options.is_quick else SECONDS
    requests = backlog.requests(bench.world, events_of(FAMILIES), WARM_UP + 2 * seconds * RATE)
    for side in bench.turns("strangers", SIDES):
        await bench.world.empty()
        await _beside(bench, side, requests, seconds)
    for flood in bench.turns("strangers: memory", list(_floods())):
        await bench.world.empty()
        await _peak(bench, flood)


async def _beside(bench: Bench, side: Side, requests: list[Prepared], seconds: int) -> None:
    port = free_port()
    reused, new = requests[: WARM_UP + seconds * RATE], requests[WARM_UP + seconds * RATE :]
    ingest = replace(INGEST, environment={"STOCKHOOK_TRUSTED_PROXIES": side.proxies})
    async with bench.world.running(ingest, port=port) as running:
        async with _strangers(bench.world, port, is_wanted=side.has_strangers):
            answers = await play_at_rate(port, reused, RATE)
            taken = [answers.arrived[one.key] - answers.sent[one.key] for one in reused[WARM_UP:]]
            bench.results.add(REUSED, "ms", side.name, percentile(taken, 0.99) * 1000, Ratio.THIS_BY_FIRST)
            taken = await _each_on_a_new_connection(port, new)
            bench.results.add(EACH_NEW, "ms", side.name, percentile(taken, 0.99) * 1000, Ratio.THIS_BY_FIRST)
        await _all_published(bench.world, running, len(requests))


async def _each_on_a_new_connection(port: int, requests: Sequence[Prepared]) -> list[float]:
    """The duration of each request, including its connection; one starts every 1/rate seconds.

    Raises:
        Failed: One was not answered 200.
    """

    async def send(request: Prepared) -> float:
        began = perf_counter()
        status = await _answer(port, [request.wire])
        if status != 200:
            raise Failed(f"a webhook on a new connection was answered {status}")
        return perf_counter() - began

    sending = []
    began = perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number, request in enumerate(requests):
            await asyncio.sleep(max(0.0, began + number / RATE - perf_counter()))
            sending.append(tasks.create_task(send(request)))
    return [task.result() for task in sending]


@asynccontextmanager
async def _strangers(world: World, port: int, *, is_wanted: bool) -> AsyncIterator[None]:
    """Unauthenticated connections that exist while the context is open.

    Raises:
        Failed: They ended early.
    """
    if not is_wanted:
        yield
        return
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.bench.strangers",
        str(port),
        str(PAUSE_SECONDS),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    opened = 0
    try:
        async with asyncio.timeout(START_SECONDS):
            while opened < CONNECTIONS:
                _, opened = map(int, (await process.stdout.readline()).split())
        draining = asyncio.create_task(process.stdout.read())
        yield
        if process.returncode is not None:
            raise Failed("the strangers ended early")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
    last_open, last_opened = map(int, (await draining).split(b"\n")[-2].split())
    if not last_open or last_opened <= opened:
        raise Failed("the strangers did not connect again")


def _floods() -> list[Flood]:
    """Unauthenticated bodies that are complete, incomplete or compressed; and real events."""
    rng = random.Random(7)
    text = "".join(rng.choices(string.ascii_letters, k=BODY_BYTES - 200))
    wrong = orjson.dumps({"type": "x", "token": "wrong", "text": text})
    authentic = orjson.dumps({"type": "x", "token": BUYBACK_TOKEN, "text": text})
    event = {"event_type": "part.status.changed", "timestamp": "2026-03-01T12:00:00Z", "event_data": text}
    bomb = gzip.compress(orjson.dumps({"type": "x", "token": "wrong", "text": "x" * (BODY_BYTES - 200)}))
    return [
        Flood("a wrong token", _head("buyback", len(wrong)), wrong, frozenset({401, 503})),
        Flood("a wrong token, over TLS", _head("buyback", len(wrong)), wrong, frozenset({401, 503}), True),
        Flood("no end", _head("buyback", len(wrong) + 1), wrong, frozenset({408, 503})),
        Flood(
            "compressed, a wrong token",
            _head("buyback", len(bomb), "Content-Encoding: gzip"),
            bomb,
            frozenset({401, 503}),
        ),
        Flood("a right token", _head("buyback", len(authentic)), authentic, frozenset({200, 503})),
        Flood(
            "a right secret",
            _head("ovoko", len(orjson.dumps(event)), f"X-Webhook-Secret: {OVOKO_SECRET}"),
            orjson.dumps(event),
            frozenset({200, 503}),
        ),
    ]


def _head(marketplace: str, length: int, *lines: str) -> str:
    return "\r\n".join(
        [f"POST /webhooks/{marketplace} HTTP/1.1", "Host: x", f"Content-Length: {length}", *lines, "", ""]
    )


async def _peak(bench: Bench, flood: Flood) -> None:
    port = free_port()
    # All come from a trusted proxy, so that only the limit of memory refuses them.
    environment = {"STOCKHOOK_TRUSTED_PROXIES": "127.0.0.1"}
    context = None
    if flood.is_encrypted:
        authority = make_authority(Path(tempfile.mkdtemp(dir=bench.world.folder)) / "authority")
        context = ssl.create_default_context(cafile=authority.ca)
        environment["STOCKHOOK_INGEST_CERTIFICATE_FILE"] = str(authority.certificate)
        environment["STOCKHOOK_INGEST_KEY_FILE"] = str(authority.key)
    async with bench.world.running(replace(INGEST, environment=environment), port=port) as running:
        async with asyncio.timeout(LONGEST_SECONDS):
            parts = [flood.head.encode(), flood.body]
            answers = Counter(await asyncio.gather(*(_answer(port, parts, context) for _ in range(BODIES))))
        await _all_published(bench.world, running, answers[200])
        bench.results.add(MEMORY, "MiB", flood.name, _peak_bytes(running) / MEBIBYTE, Ratio.NONE)
    bench.results.add(f"{MEMORY}: answered 503", "bodies", flood.name, answers[503], Ratio.NONE)
    # A connection that was closed in favour of another has no answer.
    unexpected = {status for status in answers if status not in flood.statuses | {0}}
    if unexpected:
        raise Failed(f"{flood.name}: answered {answers}")


async def _all_published(world: World, running: Running, count: int) -> None:
    """Check that each event that was answered 200 is published; a late confirm may cause a second copy.

    Raises:
        Stuck
    """
    queues = [QUARANTINE, *map(main_queue, FAMILIES)]
    await world.line.watch(queues, lambda waiting: waiting >= count, running.check)


async def _answer(port: int, parts: Sequence[bytes], context: ssl.SSLContext | None = None) -> int:
    """The status; 0 where the connection ended without one."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    except OSError:
        return 0
    try:
        for part in parts:
            writer.write(part)
        head = await reader.readuntil(b"\r\n\r\n")
        return int(head[9:12])
    except (OSError, asyncio.IncompleteReadError):
        return 0
    finally:
        writer.close()


def _peak_bytes(running: Running) -> int:
    """The peak memory of the ingest since its start, from the kernel."""
    lines = (PROC / str(running.process.pid) / "status").read_text().splitlines()
    (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return kilobytes * 1024
