"""The chaos run: real processes under load and faults, then the checks."""

import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import httpx

from consumers.registry import FAMILIES
from deploy.local.services import BrokerNode
from schemas.registry import Provider
from tests.chaos import feed
from tests.chaos.cluster import cluster_world
from tests.chaos.fault_injector import FaultInjector, NotHealed, NotInjected
from tests.chaos.faults import Strike, Target
from tests.chaos.load import RESEND_AFTER, Record, webhooks
from tests.chaos.pulse import Instant, Pulse, Recovery
from tests.chaos.report import Report, Struck
from tests.chaos.verdict import OBSERVED, audit, judge, misbehaviour
from tests.chaos.world import Options, RunFailed, Say, World, world
from tests.support.endpoint import endpoint
from tests.support.rabbit_cluster import RabbitCluster
from worker.amqp.queue_set import dead_queue
from worker.amqp.topology import QUARANTINE
from worker.config.subscribers import origin_of
from worker.simulator.http_client import Client
from worker.simulator.rate_sender import Sender, Tally
from worker.simulator.webhook import Credentials

READY_SECONDS = 180.0
SENDER_SECONDS = 240.0
# The queues become empty, however long that takes, or nothing changes in them for longer than the last retry
# delay of 175 s.
STALLED_SECONDS = 240.0
SETTLE_SECONDS = 0.2


def run(options: Options, say: Say) -> Report:
    """All processes that it starts have ended when it returns or raises.

    Raises:
        Unavailable: A private RabbitMQ or Postgres cannot be started on this machine.
    """
    report = Report(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="stockhook-chaos-"))
    # Postgres runs as another user if we are root.
    folder.chmod(0o711)
    try:
        asyncio.run(_run(folder, options, report, say))
    except (RunFailed, NotInjected, NotHealed) as failure:
        report.problems.append(str(failure))
    finally:
        (folder / "report.json").write_text(json.dumps(report.as_json(), indent=1))
        if report.problems or options.keep or sys.exc_info()[0] is not None:
            report.folder = str(folder)
            say(f"logs are kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return report


async def _run(folder: Path, options: Options, report: Report, say: Say) -> None:
    make = cluster_world if options.is_cluster else world
    async with make(folder, options, report, say) as made:
        await _play(made, options, report, say)


async def _play(world: World, options: Options, report: Report, say: Say) -> None:
    """Run load and strikes, wait for empty queues, and judge."""
    main = asyncio.current_task()
    assert main is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    began = monotonic()
    record, tally = Record(), Tally()
    pulse = Pulse(world.database_url, world.processes, record)
    credentials = Credentials.of(world.settings, Provider)
    url = f"http://127.0.0.1:{world.settings.ingest_port}"
    is_over = asyncio.Event()
    background: list[asyncio.Task[None]] = []
    subscribed = AsyncExitStack()
    try:
        shop = await subscribed.enter_async_context(endpoint(port=world.webhook_port))
        shop.behaviour = feed.refusing_now_and_then(shop)
        for process in world.processes.values():
            process.start()
        await _all_ready(world)
        background.append(asyncio.create_task(pulse.watch()))
        async with Client(url, timeout_seconds=10) as client:
            sender = Sender(client, tally, RESEND_AFTER, record.on_accepted)
            events = record.recorded(webhooks(options.seed, credentials), lambda: not is_over.is_set())
            playing = asyncio.create_task(sender.play(events, options.rate))
            background.append(playing)
            await _strike_until(
                began + options.seconds, world, pulse, background, options, report, say, began
            )
            await world.injector.heal_everything()
            healed_at = monotonic()
            is_over.set()
            await _within(SENDER_SECONDS, playing, "each request was answered or abandoned")
        await _wait_for_quiet(world, say)
        report.quiet_after = monotonic() - healed_at
        problems, notes = await asyncio.to_thread(audit, world.direct)
        verdict = await judge(
            record,
            tally.sent + tally.resent,
            tally.given_up,
            world.settings,
            failures_injected=not options.is_cluster,
        )
        posts = [json.loads(request.body) for request in shop.taken]
        feed_verdict = await feed.judge(world.database_url, world.amqp, posts, verdict.applied)
        report.totals = replace(
            verdict.totals,
            changes_committed=feed_verdict.committed,
            changes_published=feed_verdict.published,
            changes_posted=feed_verdict.posted,
        )
        report.problems += problems + verdict.problems + feed_verdict.problems
        report.notes += notes
    finally:
        report.seconds = monotonic() - began
        report.answers = dict(tally.answers)
        report.latencies = {f"p{share * 100:g}": tally.quantile(share) for share in (0.5, 0.99, 1.0)}
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await _stop(world, report)
        report.problems += misbehaviour(report.answers, report.ends)
        await subscribed.aclose()


async def _strike_until(
    end: float,
    world: World,
    pulse: Pulse,
    background: Sequence["asyncio.Task[None]"],
    options: Options,
    report: Report,
    say: Say,
    began: float,
) -> None:
    for strike in world.strikes:
        is_late = monotonic() + strike.pause.total_seconds() + strike.lasts.total_seconds() > end
        if is_late and not options.is_brief:
            return
        await asyncio.sleep(strike.pause.total_seconds())
        for task in background:
            if task.done():
                task.result()
        at = monotonic() - began
        pulse.begin()
        recovery = await _carry_out(strike, world.injector, pulse, options.recovery_seconds)
        struck = Struck(strike, at, recovery, pulse.record.longest_silence, pulse.longest_stall)
        report.struck.append(struck)
        say(_line(struck))
        if not recovery.is_complete:
            report.problems.append(
                f"strike {strike.number} at {at:.0f} s ({strike.label}): {recovery.unready} "
                f"within {options.recovery_seconds:.0f} s"
            )
        if strike.is_momentary:
            # End half-open connections that remain.
            await asyncio.gather(*map(world.injector.heal, strike.faults))
        await world.injector.settle()


async def _carry_out(strike: Strike, injector: FaultInjector, pulse: Pulse, seconds: float) -> Recovery:
    """Inject and heal a strike.

    If the cluster survives a fault, the product must recover during the fault and after it."""
    for fault in strike.faults:
        await injector.inject(fault, strike.intensity)
    struck = Instant()
    if strike.is_momentary:
        return await pulse.recovery(struck, seconds)
    recovery = await pulse.recovery(struck, seconds) if strike.is_survivable else None
    await asyncio.sleep(max(0.0, struck.monotonic + strike.lasts.total_seconds() - monotonic()))
    await asyncio.gather(*map(injector.heal, strike.faults))
    after = await pulse.recovery(Instant(), seconds)
    return after if recovery is None or not after.is_complete else recovery


def _line(struck: Struck) -> str:
    strike, recovery = struck.strike, struck.recovery
    lasts = "" if strike.is_momentary else f" for {strike.lasts.total_seconds():g} s"
    signs = {"answered": recovery.answered, "applied": recovery.applied, "ready": recovery.ready}
    times = ", ".join(f"{name} {'never' if s is None else f'{s:.2f}'}" for name, s in signs.items())
    longest = f"longest without 200 {struck.silence:.2f}, without applied {struck.stall:.2f}"
    return f"{struck.at:7.1f} s  #{strike.number:<3} {strike.label}{lasts}: {times}; {longest}"


async def _all_ready(world: World) -> None:
    async with httpx.AsyncClient(timeout=1) as client:

        async def ready() -> bool:
            return all([await process.is_ready(client) for process in world.processes.values()])

        await _until(ready, READY_SECONDS, "all processes are ready")


async def _until(condition: Callable[[], Awaitable[bool]], seconds: float, what: str) -> None:
    end = monotonic() + seconds
    while not await condition():
        if monotonic() > end:
            raise RunFailed(f"not within {seconds:.0f} s: {what}")
        await asyncio.sleep(SETTLE_SECONDS)


async def _within(seconds: float, task: "asyncio.Task[None]", what: str) -> None:
    done, _ = await asyncio.wait([task], timeout=seconds)
    if not done:
        raise RunFailed(f"not within {seconds:.0f} s: {what}")
    task.result()


async def _wait_for_quiet(world: World, say: Say) -> None:
    """Wait until spool, queues and retry queues are empty and nothing is in flight."""
    say("waiting until all queues are empty")
    before: dict[str, int] = {}
    changed_at = monotonic()
    while True:
        # The spool first: an event that leaves it meanwhile is then counted in a queue.
        waiting = {"spool": await _spool_depth(world), **await asyncio.to_thread(_queued, world.broker)}
        waiting["changes"] = await feed.waiting(world.database_url)
        waiting = {place: count for place, count in waiting.items() if count}
        if not waiting:
            return
        if waiting != before:
            before, changed_at = waiting, monotonic()
        if monotonic() - changed_at > STALLED_SECONDS:
            seen = await asyncio.to_thread(_broker_state, world.broker)
            raise RunFailed(f"nothing has left these queues for {STALLED_SECONDS:.0f} s: {waiting}\n{seen}")
        await asyncio.sleep(SETTLE_SECONDS)


def _queued(broker: BrokerNode | RabbitCluster) -> dict[str, int]:
    """Messages of each queue that must become empty, including unacked ones."""
    vhost = urlsplit(broker.url).path.removeprefix("/")
    listed = json.loads(broker.ctl("list_queues", "-p", vhost, "name", "messages", "--formatter", "json"))
    stay = {QUARANTINE, feed.QUEUE, OBSERVED, *map(dead_queue, (*FAMILIES, origin_of(feed.WEBHOOK)))}
    return {queue["name"]: queue["messages"] for queue in listed if queue["name"] not in stay}


def _broker_state(broker: BrokerNode | RabbitCluster) -> str:
    """The broker's view of each message: ready in a queue, or unacked on a channel."""
    vhost = urlsplit(broker.url).path.removeprefix("/")
    queue_columns = ("name", "leader", "online", "messages_ready", "messages_unacknowledged", "consumers")
    channel_columns = ("connection", "name", "consumer_count", "messages_unacknowledged", "prefetch_count")
    return "\n".join(
        (
            broker.ctl("list_queues", "-p", vhost, *queue_columns),
            broker.ctl("list_consumers", "-p", vhost),
            broker.ctl("list_channels", *channel_columns),
        )
    )


async def _spool_depth(world: World) -> int:
    """The depth according to the ingest's metrics; 0 without a spool."""
    port = world.processes[Target.INGEST].ops_port
    with suppress(httpx.HTTPError):
        async with httpx.AsyncClient(timeout=5) as client:
            answer = await client.get(f"http://127.0.0.1:{port}/metrics")
        lines = answer.text.splitlines()
        return sum(
            int(float(line.split()[-1])) for line in lines if line.startswith("stockhook_spool_events ")
        )
    return 1


async def _stop(world: World, report: Report) -> None:
    for target, process in world.processes.items():
        report.ends[str(target)] = dict(process.ends)
        code = await process.stop()
        if code != 0:
            report.notes.append(f"{target} ended with {code} after SIGTERM")
