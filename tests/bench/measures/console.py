"""The console: the weight of its first page, the time of each screen with full tables, CPU for viewers."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import perf_counter
from urllib.parse import urljoin, urlsplit

import asyncpg
import httpx

from tests.bench.figures import percentile
from tests.bench.lineup import CONSOLE, INGEST, STOCKHOOK
from tests.bench.measures.preload import Size, copied, make_template
from tests.bench.plan import Bench
from tests.bench.processes import Failed, Running, cpu_seconds
from tests.bench.results import Ratio
from tests.bench.world import READY_SECONDS, World, free_port
from tests.support.console import sign_in, users
from tests.support.console_examples import Ids, addresses
from worker.config.settings import PREFIX
from worker.console.routes import SCREENS

# Scaled down with --events.
EVENTS, LETTERS, ACTIONS = 2_000_000, 10_000, 2_000
FULL = 40_000

REQUESTS, QUICK_REQUESTS, WARM_UP = 100, 20, 3
VIEWERS = 50
CPU_SECONDS, QUICK_CPU_SECONDS = 60.0, 5.0

FIRST_PAGE = "/overview"

WEIGHT = "first page of the console with all its files, compressed"
FOREIGN = "requests of the first page to other hosts"
CPU = "CPU of the console"
TIME = "answer of the console, p95"

# Addresses that a browser requests with a page or a style sheet.
REQUESTED = re.compile(
    r"""(?:<(?:script|img|iframe|source)[^>]*\ssrc|<link[^>]*\shref)="([^"]+)"|url\(([^)]+)\)"""
)

LETTERS_SQL = """
INSERT INTO dead_letters
    (message_key, origin, event_id, provider, type, entity_id, reason, exception, fingerprint, attempts,
     received_at, first_failed_at, last_failed_at, arrived_at, headers, body, provenance)
SELECT gen_random_uuid(),
       (ARRAY['inventory', 'orders', 'returns', 'quarantine'])[1 + number % 4],
       gen_random_uuid(), 'ovoko', 'part.status.changed', (1000000000 + number * 20)::text,
       'exhausted: RaiseError [P0001] in consumers/family.py:write #' || number % 25, 'RaiseError',
       lpad(to_hex(number % 25), 8, '0'), 4, at, at, at + interval '217 s', at + interval '217 s',
       json_build_object('x-attempt', 4, 'x-reason', 'exhausted', 'x-provider', 'ovoko',
                         'x-event-type', 'part.status.changed'),
       convert_to(format(
           '{"event_type": "part.status.changed", "timestamp": "%s", "event_data": {"part_id": "%s", '
           '"status": "sold"}}', to_char(at, 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"'), 1000000000 + number * 20),
           'UTF8'),
       'webhook'
FROM (
    SELECT number, now() - interval '30 days' * (number / $1::float8) AS at
    FROM generate_series($1::bigint, 1, -1) AS number
) AS letters
"""

ACTIONS_SQL = """
INSERT INTO actions (kind, key, subject, request, state, attempts, created_at, published_at, finished_at)
SELECT 'buyback.rerequest_pickup', 'bench:' || number, 'order-' || number, '{}'::bytea,
       (ARRAY['done', 'done', 'failed', 'refused', 'unknown'])[1 + number % 5], 1, at, at, at
FROM (
    SELECT number, now() - interval '30 days' * (number / $1::float8) AS at
    FROM generate_series(1, $1::bigint) AS number
) AS actions
"""

AUDIT_SQL = """
INSERT INTO dead_letter_audit (dead_letter_id, at, who, action, reason)
SELECT dead_letter_id, arrived_at, 'anna', 'discarded', 'sent again by hand'
FROM dead_letters
WHERE dead_letter_id % 10 = 0
"""


JOB_SQL = """
INSERT INTO bulk_jobs (kind, selection, last_id, matched, rate, who, reason, state, ended_at)
SELECT 'dry_run', '{}', max(dead_letter_id), count(*), 50, 'anna', 'before the replay', 'done', now()
FROM dead_letters
RETURNING job_id
"""


async def console(bench: Bench) -> None:
    quick = bench.options.is_quick
    share = min(1.0, bench.options.events / FULL)
    size = Size(int(EVENTS * share))
    bench.show.step("console: filling", size.name, 0, 1)
    await make_template(bench.world, size)
    bench.show.done("console: filling", 1)
    async with copied(bench.world, size) as world:
        await _fill(world.database, share)
        ids = await _ids(world)
        for _ in bench.turns("console", (CONSOLE,)):
            async with _running(world) as (running, client):
                await _weigh(bench, client)
                await _time_screens(bench, client, ids, QUICK_REQUESTS if quick else REQUESTS)
                await _count_cpu(bench, client, running, QUICK_CPU_SECONDS if quick else CPU_SECONDS)


async def _fill(connection: "asyncpg.Connection[asyncpg.Record]", share: float) -> None:
    await connection.execute(LETTERS_SQL, int(LETTERS * share), timeout=None)
    await connection.execute(ACTIONS_SQL, int(ACTIONS * share), timeout=None)
    await connection.execute(AUDIT_SQL, timeout=None)
    await connection.execute("VACUUM (ANALYZE)", timeout=None)


async def _ids(world: World) -> Ids:
    letters = await world.database.fetch(
        "SELECT DISTINCT ON (origin) dead_letter_id FROM dead_letters ORDER BY origin, dead_letter_id"
    )
    event = await world.database.fetchrow("SELECT event_id, entity_id FROM event_log LIMIT 1")
    action = await world.database.fetchval("SELECT action_id FROM actions LIMIT 1")
    part = event["entity_id"]
    return Ids(
        part=part,
        order=part,
        returned=part,
        buyback_order=part,
        event_id=str(event["event_id"]),
        letters=tuple(row["dead_letter_id"] for row in letters),
        actions=(str(action),),
        jobs=(await world.database.fetchval(JOB_SQL),),
    )


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


async def _time_screens(bench: Bench, client: httpx.AsyncClient, ids: Ids, requests: int) -> None:
    """One request after the other; the time includes the client's, which runs on the same machine."""
    for screen in SCREENS:
        taken = []
        listed = addresses(screen.path, ids)
        for number in range(-WARM_UP, requests):
            began = perf_counter()
            answer = await client.get(listed[number % len(listed)], follow_redirects=True)
            seconds = perf_counter() - began
            # An entity may be of another family.
            if answer.status_code not in (200, 404):
                raise Failed(f"{answer.url} is answered {answer.status_code}")
            if number >= 0:
                taken.append(seconds * 1000)
        bench.results.add(TIME, "ms", screen.path, percentile(taken, 0.95), Ratio.NONE)


async def _count_cpu(bench: Bench, client: httpx.AsyncClient, running: Running, seconds: float) -> None:
    async def share() -> float:
        before, began = cpu_seconds(running.pids), perf_counter()
        await asyncio.sleep(seconds)
        return 100 * (cpu_seconds(running.pids) - before) / (perf_counter() - began)

    bench.results.add(CPU, "% of a core", "no viewer", await share(), Ratio.NONE)
    viewers = [asyncio.create_task(_view(client)) for _ in range(VIEWERS)]
    # The first regions are sent to all at once.
    await asyncio.sleep(min(seconds, 5))
    try:
        bench.results.add(CPU, "% of a core", f"{VIEWERS} viewers", await share(), Ratio.NONE)
        if any(viewer.done() for viewer in viewers):
            raise Failed("a stream of the console ended")
    finally:
        for viewer in viewers:
            viewer.cancel()
        await asyncio.gather(*viewers, return_exceptions=True)


async def _view(client: httpx.AsyncClient) -> None:
    """The stream of a page that is open."""
    async with client.stream("GET", f"{FIRST_PAGE}?live=1") as answer:
        if answer.status_code != 200:
            raise Failed(f"a stream of the console is answered {answer.status_code}")
        async for _ in answer.aiter_raw():
            pass
