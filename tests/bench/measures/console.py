"""The console: the weight of its first page, the time of each answer with full tables, CPU for viewers."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from time import perf_counter
from urllib.parse import urljoin, urlsplit

import httpx

from tests.bench.figures import percentile
from tests.bench.lineup import CONSOLE, INGEST, STOCKHOOK
from tests.bench.measures.console_tables import Filled, fill, look_up, rows
from tests.bench.measures.preload import Size, copied, make_template
from tests.bench.plan import Bench
from tests.bench.processes import Failed, Running, cpu_seconds
from tests.bench.results import Ratio
from tests.bench.world import READY_SECONDS, World, free_port
from tests.support.console import sign_in, users
from worker.config.settings import PREFIX

# Scaled down with --events.
EVENTS = 2_000_000
FULL = 40_000

# Each address is requested for these seconds, but at least and at most this number of times. With 20
# requests, the slowest is above p95.
ADDRESS_SECONDS, QUICK_ADDRESS_SECONDS = 1.5, 0.0
FEWEST_REQUESTS, MOST_REQUESTS, WARM_UP = 20, 100, 3
VIEWERS = 50
CPU_SECONDS, QUICK_CPU_SECONDS = 20.0, 5.0

FIRST_PAGE = "/overview"

# Live pages that viewers have open at the same time.
LIVE_PAGES = (
    FIRST_PAGE,
    "/families/inventory",
    "/families/orders",
    "/families/returns",
    "/changes",
    "/refusals",
    "/jobs",
    "/jobs/{job}",
)

WEIGHT = "first page of the console with all its files, compressed"
FOREIGN = "requests of the first page to other hosts"
CPU = "CPU of the console"
TIME = "answer of the console, p95"
# Of the console and of Postgres, also of what the consumers and the poller did meanwhile.
ANSWER_CPU = "CPU per answer of the console"

# Addresses that a browser requests with a page or a style sheet.
REQUESTED = re.compile(
    r"""(?:<(?:script|img|iframe|source)[^>]*\ssrc|<link[^>]*\shref)="([^"]+)"|url\(([^)]+)\)"""
)


async def console(bench: Bench) -> None:
    quick = bench.options.is_quick
    share = min(1.0, bench.options.events / FULL)
    size = Size(int(EVENTS * share))
    bench.show.step("console: filling", size.name, 0, 1)
    await make_template(bench.world, size, is_for_console=True)
    bench.show.done("console: filling", 1)
    async with copied(bench.world, size) as world:
        await fill(world.database, share)
        filled = await look_up(world.database)
        for _ in bench.turns("console", (CONSOLE,)):
            async with _running(world) as (running, client):
                await _weigh(bench, client)
                cpu = partial(_cpu, running, world)
                await _time_screens(
                    bench, client, filled, cpu, QUICK_ADDRESS_SECONDS if quick else ADDRESS_SECONDS
                )
                await _count_cpu(bench, client, filled, running, QUICK_CPU_SECONDS if quick else CPU_SECONDS)


def _cpu(running: Running, world: World) -> float:
    """Of the console and the database, which ended sessions count in too."""
    return cpu_seconds(running.pids) + cpu_seconds(world.postgres_pids())


@asynccontextmanager
async def _running(world: World) -> AsyncIterator[tuple[Running, httpx.AsyncClient]]:
    """The ingest, the consumers, and the console that reads their ops ports; a user has signed in."""
    port, ops = free_port(), (free_port(), free_port())
    async with AsyncExitStack() as opened:
        for contestant, ops_port in zip((INGEST, STOCKHOOK), ops, strict=True):
            beside = contestant.with_settings({f"{PREFIX}OPS_PORT": str(ops_port)})
            ingest_port = free_port() if contestant is INGEST else 0
            await opened.enter_async_context(world.running(beside, port=ingest_port))
        settings = {
            f"{PREFIX}CONSOLE_PORT": str(port),
            f"{PREFIX}CONSOLE_USERS": users(anna="operator+revealer"),
            f"{PREFIX}CONSOLE_OPS_URLS": ",".join(f"http://127.0.0.1:{one}" for one in ops),
        }
        running = await opened.enter_async_context(world.running(CONSOLE.with_settings(settings)))
        client = await opened.enter_async_context(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}",
                verify=False,
                timeout=30,
                limits=httpx.Limits(max_connections=None),
            )
        )
        await _until_it_answers(running, client)
        answer = await sign_in(client)
        if answer.status_code != 303:
            raise Failed(f"the console answers a sign-in with {answer.status_code}")
        yield running, client


async def _until_it_answers(running: Running, client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(READY_SECONDS):
        while True:
            running.check()
            try:
                if (await client.get("/livez")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)


async def _weigh(bench: Bench, client: httpx.AsyncClient) -> None:
    """The bytes of bodies as they are sent, and addresses of other hosts in the page and its style sheets."""
    own = urlsplit(str(client.base_url)).netloc
    waiting, seen, total, foreign = [FIRST_PAGE], {FIRST_PAGE}, 0, 0
    while waiting:
        address = waiting.pop()
        async with client.stream("GET", address, headers={"Accept-Encoding": "gzip"}) as answer:
            raw = b"".join([part async for part in answer.aiter_raw()])
            kind = answer.headers["content-type"]
        total += len(raw)
        if not kind.startswith(("text/html", "text/css")):
            continue
        for match in _requested((await client.get(address)).text):
            target = urlsplit(urljoin(str(client.base_url.join(address)), match))
            path = f"{target.path}?{target.query}"
            if target.netloc != own:
                foreign += 1
            elif path not in seen:
                seen.add(path)
                waiting.append(path)
    bench.results.add(WEIGHT, "kB", CONSOLE.name, total / 1000, Ratio.NONE)
    bench.results.add(FOREIGN, "requests", CONSOLE.name, foreign, Ratio.NONE)


def _requested(text: str) -> Iterator[str]:
    for match in REQUESTED.finditer(text):
        yield (match[1] or match[2]).strip("'\" ")


async def _time_screens(
    bench: Bench, client: httpx.AsyncClient, filled: Filled, cpu: Callable[[], float], seconds: float
) -> None:
    """One request after the other; the time includes the client's, which runs on the same machine."""
    for name, listed in rows(filled).items():
        for number in range(WARM_UP):
            await _request(client, listed[number % len(listed)])
        taken: list[float] = []
        before, began = cpu(), perf_counter()
        while _continues(len(taken), perf_counter() - began, seconds):
            taken.append(1000 * await _request(client, listed[len(taken) % len(listed)]))
        bench.results.add(TIME, "ms", name, percentile(taken, 0.95), Ratio.NONE)
        bench.results.add(ANSWER_CPU, "ms", name, 1000 * (cpu() - before) / len(taken), Ratio.NONE)


def _continues(requests: int, passed: float, seconds: float) -> bool:
    return requests < FEWEST_REQUESTS or (requests < MOST_REQUESTS and passed < seconds)


async def _request(client: httpx.AsyncClient, address: str) -> float:
    """The seconds until the answer.

    Raises:
        Failed
    """
    began = perf_counter()
    answer = await client.get(address, follow_redirects=True)
    seconds = perf_counter() - began
    # An entity may be of another family.
    if answer.status_code not in (200, 404):
        raise Failed(f"{answer.url} is answered {answer.status_code}")
    return seconds


async def _count_cpu(
    bench: Bench, client: httpx.AsyncClient, filled: Filled, running: Running, seconds: float
) -> None:
    async def share() -> float:
        before, began = cpu_seconds(running.pids), perf_counter()
        await asyncio.sleep(seconds)
        return 100 * (cpu_seconds(running.pids) - before) / (perf_counter() - began)

    bench.results.add(CPU, "% of a core", "no viewer", await share(), Ratio.NONE)
    for name, pages in (
        (f"{VIEWERS} viewers", [FIRST_PAGE]),
        (f"{VIEWERS} viewers of {len(LIVE_PAGES)} pages", LIVE_PAGES),
    ):
        listed = [page.format(job=filled.ids.jobs[0]) for page in pages]
        viewers = [
            asyncio.create_task(_view(client, listed[number % len(listed)])) for number in range(VIEWERS)
        ]
        # The first regions are sent to all at once.
        await asyncio.sleep(min(seconds, 5))
        try:
            bench.results.add(CPU, "% of a core", name, await share(), Ratio.NONE)
            if any(viewer.done() for viewer in viewers):
                raise Failed("a stream of the console ended")
        finally:
            for viewer in viewers:
                viewer.cancel()
            await asyncio.gather(*viewers, return_exceptions=True)


async def _view(client: httpx.AsyncClient, page: str) -> None:
    """The stream of a page that is open."""
    async with client.stream("GET", f"{page}?live=1") as answer:
        if answer.status_code != 200:
            raise Failed(f"a stream of the console is answered {answer.status_code}")
        async for _ in answer.aiter_raw():
            pass
