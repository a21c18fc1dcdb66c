"""The chaos run: real processes under load, struck by one fault after another; then the reckoning."""

import asyncio
import base64
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import asyncpg
import httpx
from cryptography.fernet import Fernet

from consumers.registry import FAMILIES
from deploy.local.ports import choose_ports
from deploy.local.process import Command, Spawner
from deploy.local.services import CHECKOUT, BrokerNode, Services, Unavailable, services_of_ours
from schemas.events import Provider
from tests.chaos import feed
from tests.chaos.amqp_frames import AmqpWatch
from tests.chaos.faults import RETRY_DELAYS, Strike, Target, plan
from tests.chaos.killer import Killer, NotHealed, NotStruck
from tests.chaos.load import CLOCK_TOLERANCE, RESEND_AFTER, Record, webhooks
from tests.chaos.postgres_messages import PostgresWatch
from tests.chaos.processes import Supervised
from tests.chaos.proxy import FaultProxy
from tests.chaos.pulse import Instant, Pulse
from tests.chaos.report import Report, Struck
from tests.chaos.small_disk import NoSmallDisk, SmallDisk, small_disk
from tests.chaos.verdict import audit, judge, misbehaviour, run_command
from tests.chaos.wire import Watch
from tests.e2e.endpoint import endpoint
from worker.broker import Broker
from worker.changes.subscriber import lane_of
from worker.send.client import Client
from worker.send.sender import Sender, Tally
from worker.send.webhook import Credentials
from worker.settings import PREFIX, Settings
from worker.topology import QUARANTINE, dead_queue

READY_SECONDS = 60.0
# The slowest that any recovery may be; how fast each is, the table says.
RECOVERY_SECONDS = 60.0
SENDER_SECONDS = 120.0
QUIET_SECONDS = 180.0
SETTLE_SECONDS = 0.2

# From this length on, a run has strikes that outlast a heartbeat.
LONG_RUN_SECONDS = 120

SPOOL_MEGABYTES = 32
# For the tables on a small disk: what each event takes there at most, and what they begin with.
KILOBYTES_PER_EVENT = 8
DATABASE_MEGABYTES = 192

Say = Callable[[str], None]


class RunFailed(Exception):
    """The run could not be carried through. The text says what was waited for."""


@dataclass(frozen=True, slots=True)
class Options:
    seed: int
    seconds: float
    rate: float
    keep: bool

    @property
    def is_long(self) -> bool:
        return self.seconds >= LONG_RUN_SECONDS


@dataclass(slots=True)
class World:
    """All that runs."""

    broker: BrokerNode
    direct: dict[str, str]
    """The environment of the product, past the proxies."""
    processes: dict[Target, Supervised]
    killer: Killer
    webhook_port: int

    @property
    def database_url(self) -> str:
        return self.settings.database_url.get_secret_value()

    @property
    def amqp(self) -> Broker:
        return Broker(self.settings.amqp_url.get_secret_value(), "chaos")

    @property
    def settings(self) -> Settings:
        names = {name.removeprefix(PREFIX).lower(): value for name, value in self.direct.items()}
        return Settings(**{name: value for name, value in names.items() if name in Settings.model_fields})  # type: ignore[arg-type]  # strings, as the environment has them


def run(options: Options, say: Say) -> Report:
    """Everything that it starts has ended when it returns, or raises.

    Raises:
        Unavailable: There is no RabbitMQ or no Postgres of our own to be had here.
    """
    report = Report(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="stockhook-chaos-"))
    # Postgres runs as another user where we are root.
    folder.chmod(0o711)
    try:
        with world(folder, options, report, say) as made:
            asyncio.run(_play(made, options, report, say))
    except (RunFailed, NotStruck, NotHealed) as failure:
        report.problems.append(str(failure))
    finally:
        (folder / "report.json").write_text(json.dumps(report.as_json(), indent=1))
        if report.problems or options.keep or sys.exc_info()[0] is not None:
            report.folder = str(folder)
            say(f"logs are kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return report


@contextmanager
def world(folder: Path, options: Options, report: Report, say: Say) -> Iterator[World]:
    """Services, proxies and disks; the product's processes are yet to be started."""
    state = folder / "state"
    state.mkdir(mode=0o755)
    (folder / "log").mkdir()
    with ExitStack() as stack:
        disks = dict(_disks(stack, folder, options, report))
        services = stack.enter_context(services_of_ours(state, durable=False, announce=say))
        if services.rabbitmq is None or services.postgres is None:
            raise Unavailable("chaos needs services of its own")
        proxies = {
            target: stack.enter_context(_proxy(url, watch, options.seed + number))
            for number, (target, url, watch) in enumerate(_links(services))
        }
        spawner = Spawner()
        stack.callback(spawner.close)
        webhook_port = choose_ports(["webhook"], {})["webhook"]
        direct = _environment(services, folder, webhook_port)
        asyncio.run(_prepare(services, disks, direct))
        processes = _processes(spawner, folder, direct, services, proxies)
        killer = Killer(
            processes=processes,
            proxies=proxies,
            broker=services.rabbitmq,
            postgres=services.postgres,
            database_url=services.database_url,
            disks=disks,
        )
        yield World(services.rabbitmq, direct, processes, killer, webhook_port)


def _disks(
    stack: ExitStack, folder: Path, options: Options, report: Report
) -> Iterator[tuple[Target, SmallDisk]]:
    database_megabytes = DATABASE_MEGABYTES + int(options.rate * options.seconds * KILOBYTES_PER_EVENT / 1024)
    sizes = {Target.SPOOL: SPOOL_MEGABYTES, Target.POSTGRES: database_megabytes}
    for target, megabytes in sizes.items():
        try:
            yield target, stack.enter_context(small_disk(folder / f"{target}-disk", megabytes))
        except NoSmallDisk as why:
            report.notes.append(f"no full disk of {target}: {why}")


def _links(services: Services) -> list[tuple[Target, str, Callable[[], Watch]]]:
    return [
        (Target.INGEST_TO_BROKER, services.amqp_url, AmqpWatch),
        (Target.CONSUMERS_TO_BROKER, services.amqp_url, AmqpWatch),
        (Target.CONSUMERS_TO_POSTGRES, services.database_url, PostgresWatch),
    ]


def _proxy(url: str, watch: Callable[[], Watch], seed: int) -> FaultProxy:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return FaultProxy(parts.hostname, parts.port, watch=watch, seed=seed)


def _environment(services: Services, folder: Path, webhook_port: int) -> dict[str, str]:
    subscriber = {
        "name": feed.WEBHOOK,
        "url": f"http://127.0.0.1:{webhook_port}/hooks",
        "secret": "whsec_" + base64.b64encode(bytes(32)).decode(),
    }
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {
        **others,
        f"{PREFIX}AMQP_URL": services.amqp_url,
        f"{PREFIX}DATABASE_URL": services.database_url,
        f"{PREFIX}INGEST_PORT": str(choose_ports(["ingest"], {})["ingest"]),
        f"{PREFIX}OVOKO_SECRETS": "chaos-ovoko-secret",
        f"{PREFIX}BUYBACK_TOKENS": "chaos-buyback-token",
        f"{PREFIX}SEALING_KEYS": Fernet.generate_key().decode(),
        f"{PREFIX}RETRY_DELAYS": RETRY_DELAYS,
        f"{PREFIX}CLOCK_TOLERANCE": str(CLOCK_TOLERANCE.total_seconds()),
        # The verdict reads the quarantine's queue.
        f"{PREFIX}KEEP_DEAD_LETTERS": "false",
        f"{PREFIX}SPOOL_PATH": str(folder / f"{Target.SPOOL}-disk" / "spool.sqlite"),
        f"{PREFIX}LOG_FORMAT": "json",
        f"{PREFIX}CHANGES_PRIVATE_TARGETS": "true",
        f"{PREFIX}CHANGES_WEBHOOKS": json.dumps([subscriber]),
    }


async def _prepare(services: Services, disks: Mapping[Target, SmallDisk], direct: Mapping[str, str]) -> None:
    """Tables, on the small disk if there is one, and queues."""
    if Target.POSTGRES in disks:
        location = disks[Target.POSTGRES].folder / "tables"
        location.mkdir()
        assert services.postgres is not None
        owner = Path(f"/proc/{services.postgres.pids()[0]}").stat()
        os.chown(location, owner.st_uid, owner.st_gid)
        connection = await asyncpg.connect(services.database_url)
        await connection.execute(f"CREATE TABLESPACE small LOCATION '{location}'")
        name = urlsplit(services.database_url).path.removeprefix("/")
        await connection.execute(f"ALTER DATABASE {name} SET default_tablespace = small")
        await connection.close()
    for command in ("migrate", "topology"):
        done = await asyncio.to_thread(run_command, direct, command)
        if done.returncode != 0:
            raise RunFailed(f"`stockhook {command}` ended with {done.returncode}: {done.stderr}")
    await feed.prepare(Broker(services.amqp_url, "chaos"), services.database_url)


def _processes(
    spawner: Spawner,
    folder: Path,
    direct: Mapping[str, str],
    services: Services,
    proxies: Mapping[Target, FaultProxy],
) -> dict[Target, Supervised]:
    ports = choose_ports((Target.INGEST, Target.FIRST_CONSUMER, Target.SECOND_CONSUMER), {})
    made = {}
    for target, port in ports.items():
        is_ingest = target == Target.INGEST
        to_broker = Target.INGEST_TO_BROKER if is_ingest else Target.CONSUMERS_TO_BROKER
        environment = {
            **direct,
            f"{PREFIX}AMQP_URL": proxies[to_broker].via(services.amqp_url),
            f"{PREFIX}DATABASE_URL": proxies[Target.CONSUMERS_TO_POSTGRES].via(services.database_url),
            f"{PREFIX}OPS_PORT": str(port),
        }
        command = Command(
            (sys.executable, "-m", "worker", "ingest" if is_ingest else "consume"),
            environment,
            folder=CHECKOUT,
        )
        log = folder / "log" / f"{target}.log"
        made[Target(target)] = Supervised(target, command, log, spawner, port)
    return made


async def _play(world: World, options: Options, report: Report, say: Say) -> None:
    """Load and strikes, then quiet, then the verdict."""
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
            await world.killer.heal_everything()
            healed_at = monotonic()
            is_over.set()
            await _within(SENDER_SECONDS, playing, "the sender has an answer to everything or gave it up")
        await _wait_for_quiet(world, say)
        report.quiet_after = monotonic() - healed_at
        problems, notes = await asyncio.to_thread(audit, world.direct)
        verdict = await judge(record, tally.sent + tally.resent, tally.given_up, world.settings)
        posts = [json.loads(request.body) for request in shop.taken]
        told = await feed.judge(world.database_url, world.amqp, posts, verdict.applied)
        report.totals = replace(
            verdict.totals,
            changes_committed=told.committed,
            changes_published=told.published,
            changes_posted=told.posted,
        )
        report.problems += problems + verdict.problems + told.problems
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
    for strike in plan(options.seed, long=options.is_long, disks=len(world.killer.disks) == 2):
        if monotonic() + strike.pause.total_seconds() + strike.lasts.total_seconds() > end:
            return
        await asyncio.sleep(strike.pause.total_seconds())
        for task in background:
            if task.done():
                task.result()
        at = monotonic() - began
        healed = await _carry_out(strike, world.killer)
        recovery = await pulse.recovery(healed, RECOVERY_SECONDS)
        struck = Struck(strike, at, recovery)
        report.struck.append(struck)
        say(_line(struck))
        if not recovery.is_complete:
            report.problems.append(
                f"strike {strike.number} at {at:.0f} s ({strike.label}): {recovery.unready} "
                f"within {RECOVERY_SECONDS:.0f} s"
            )
        if strike.is_momentary:
            # Half-open connections that were left behind.
            await asyncio.gather(*map(world.killer.heal, strike.faults))


async def _carry_out(strike: Strike, killer: Killer) -> Instant:
    """Strike and heal; the instant from which recovery counts."""
    for fault in strike.faults:
        await killer.strike(fault, strike.intensity)
    if strike.is_momentary:
        return Instant()
    await asyncio.sleep(strike.lasts.total_seconds())
    await asyncio.gather(*map(killer.heal, strike.faults))
    return Instant()


def _line(struck: Struck) -> str:
    strike, recovery = struck.strike, struck.recovery
    lasts = "" if strike.is_momentary else f" for {strike.lasts.total_seconds():g} s"
    signs = {"answered": recovery.answered, "applied": recovery.applied, "ready": recovery.ready}
    told = ", ".join(f"{name} {'never' if s is None else f'{s:.2f}'}" for name, s in signs.items())
    return f"{struck.at:7.1f} s  #{strike.number:<3} {strike.label}{lasts}: {told}"


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
    """Until nothing waits in spool, queues, retry steps, or consumers' hands."""
    say("waiting for quiet")
    end = monotonic() + QUIET_SECONDS
    while True:
        # The spool first: what leaves it meanwhile is seen in a queue.
        waiting = {"spool": await _spool_depth(world), **await asyncio.to_thread(_queued, world.broker)}
        waiting["changes"] = await feed.waiting(world.database_url)
        waiting = {place: count for place, count in waiting.items() if count}
        if not waiting:
            return
        if monotonic() > end:
            raise RunFailed(f"not quiet within {QUIET_SECONDS:.0f} s: {waiting}")
        await asyncio.sleep(SETTLE_SECONDS)


def _queued(broker: BrokerNode) -> dict[str, int]:
    """Messages of each queue that is to become empty, also those that a consumer holds."""
    vhost = urlsplit(broker.url).path.removeprefix("/")
    listed = json.loads(broker.ctl("list_queues", "-p", vhost, "name", "messages", "--formatter", "json"))
    stay = {QUARANTINE, feed.QUEUE, *map(dead_queue, (*FAMILIES, lane_of(feed.WEBHOOK)))}
    return {queue["name"]: queue["messages"] for queue in listed if queue["name"] not in stay}


async def _spool_depth(world: World) -> int:
    """By the ingest's own metrics; 0 where it has no spool."""
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
            report.notes.append(f"{target} ended with {code} when it was asked to stop")
