"""An upgrade under load, a rollback and another upgrade, process by process (docs/guides/upgrades.md)."""

import asyncio
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TypeVar

import asyncpg
import httpx

from consumers.registry import FAMILIES
from deploy.local.rabbitmq import ControlFailed
from schemas.registry import Provider
from tests.chaos import feed
from tests.chaos.load import RESEND_AFTER, Record
from tests.chaos.pulse import Instant, Pulse
from tests.chaos.report import Totals
from tests.chaos.verdict import judge
from tests.support.endpoint import Endpoint, endpoint
from tests.support.fault_sql import REMOVE_FAULT
from tests.support.rabbit_cluster import RabbitCluster
from tests.upgrade import verdict
from tests.upgrade.load import BREAK_WRITES, SQLSTATE, examples_of_all, mixed
from tests.upgrade.release import Release
from tests.upgrade.world import CONSUMERS, INGESTS, Backend, World, world
from worker.amqp.queue_set import QueueSet, dead_queue
from worker.amqp.topology import (
    ACTIONS,
    QUARANTINE,
    topology,
)
from worker.cli.simulate import client_settings
from worker.config.subscribers import origin_of
from worker.simulator.http_client import Client
from worker.simulator.rate_sender import Sender, Tally
from worker.simulator.server import serving
from worker.simulator.webhook import Credentials

# Webhooks per second. Slower machines can use `RATE=30 make test-upgrade`.
RATE = float(os.environ.get("RATE", "100"))

# Deadlines that end a stuck run. The report has the duration of each replacement.
RECOVERY_SECONDS = 300.0
WAIT_SECONDS = 120.0
SENDER_SECONDS = 120.0
QUIET_SECONDS = 600.0
# The interval of searches for failures in the logs during a wait.
CHECK_SECONDS = 2.0
# The longest time of a publish before the ingest spools the event.
CONFIRM_SECONDS = 1.0
# The number of events in a spool when its ingest is replaced.
SPOOLED = 20

PAYMENT = {
    "firstName": "Ana",
    "lastName": "Silva",
    "bankAccount": {
        "accountNumber": "PT50000201231234567890154",
        "financialInstitutionIdentifier": "BCOMPTPL",
        "beneficiaryName": "Ana Silva",
    },
    "billingAddress": {"firstLine": "1", "zipCode": "1000", "city": "Lisbon", "country": "PT"},
}

TABLES = """
SELECT relname::text AS name
FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
"""

CHANGE_LOCKS = "SELECT coalesce(to_regclass('change_locks'), to_regclass('change_lanes'))::text"

# The migration that renames tables: an upgrade from a release without it stops all consumers first.
STOPS_CONSUMERS = "0020_plain_names"

# Tables without rows during the upgrade, and the reason.
NOT_FILLED = {
    "event_log_before": "a table of an older release",
    "event_log_dropped": "has rows only after a month of the log was dropped",
    "suspects": "poison_candidates before the migration that renames tables",
    "poison_candidates": "has rows only while an event that may have killed its consumer is handled",
    "chaos_changes": "a table of the test",
    "paused_families": "has rows only while a user's pause of a family lasts",
    "operator_audit": "has rows only once a user paused a family",
    "bulk_jobs": "has rows only once a user of the console started a job",
}


T = TypeVar("T")


class RunFailed(Exception):
    """The run could not finish. The text has the failed condition or the failure."""


@dataclass(frozen=True, slots=True)
class Handover:
    """The state when a process was stopped for its replacement."""

    stage: str
    process: str
    queued: Mapping[str, int]
    """Ready messages per queue, without empty queues."""
    spooled: int | None
    seconds: float
    """From the stop until the new process was ready and had applied newer events."""


@dataclass(slots=True)
class Report:
    problems: list[str] = field(default_factory=list)
    handovers: list[Handover] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    """The duration of each stage in seconds."""
    answers: dict[str, int] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    filled: dict[str, int] = field(default_factory=dict)
    """Rows per table when the upgrade began."""
    failed_attempts: int = 0
    replayed: int = 0
    actions: dict[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        return [
            f"stages, seconds: { {name: round(seconds, 1) for name, seconds in self.stages.items()} }",
            *(
                f"{handover.stage}: {handover.process} replaced in {handover.seconds:.1f} s with "
                f"{sum(handover.queued.values())} messages in {len(handover.queued)} queues"
                + ("" if handover.spooled is None else f", {handover.spooled} events in its spool")
                for handover in self.handovers
            ),
            f"answers: {self.answers}",
            f"events: {self.totals}",
            f"rows when the upgrade began: {self.filled}",
            f"failed attempts that the test caused: {self.failed_attempts}; dead letters replayed: "
            f"{self.replayed}; actions: {self.actions}",
            *(f"PROBLEM: {problem}" for problem in self.problems),
        ]


def run(folder: Path, backend: Backend, old: Release, new: Release, *, rolls_back: bool = True) -> Report:
    """Upgrade from `old` to `new`, roll back, and upgrade again. All processes have ended when it returns."""
    report = Report()
    with world(folder, backend, old, new) as made:
        upgrade = Upgrade(made, report, rolls_back)
        asyncio.run(upgrade.run())
    return report


@dataclass(slots=True)
class Upgrade:
    world: World
    report: Report
    rolls_back: bool
    rate: float = RATE
    seed: int = 1
    record: Record = field(default_factory=Record)
    tally: Tally = field(default_factory=Tally)
    is_over: bool = False
    plants: bool = False
    """Whether the load has failing events."""
    pulse: Pulse = field(init=False)
    _logs: verdict.Logs = field(init=False)
    _stage: str = ""
    _waiting: dict[str, int] = field(default_factory=dict)
    _stage_began: float = 0.0

    def __post_init__(self) -> None:
        self.pulse = Pulse(self.world.backend.database_url, self.world.processes, self.record)  # type: ignore[arg-type]  # other names
        self._logs = verdict.Logs(self.world.folder / "log")

    async def run(self) -> None:
        new = self.world.new
        async with AsyncExitStack() as stack:
            shop = await stack.enter_async_context(endpoint(port=self.world.webhook_port))
            platform = await stack.enter_async_context(serving(self.world.simulation))
            stack.push_async_callback(self._stop)
            try:
                await self._begin(shop, platform)
                async with self._load():
                    await self._build_up()
                    self._enter("upgrade")
                    if self.world.old.has_migration(STOPS_CONSUMERS):
                        await self._prepare(new)
                        await self._replace_consumers(new)
                    else:
                        await self._replace_stopped_consumers(new)
                    await self._replace_ingests(new, "ingest-1")
                    await self._dead_letters_are_moved()
                    if self.rolls_back:
                        await self._roll_back()
                    self._enter("end")
                    await self._repair(shop)
                    if (cluster := self.world.backend.cluster) is not None:
                        await self._restart_one_by_one(cluster)
                await self._settle()
                await self._judge(shop)
            except RunFailed as failure:
                self.report.problems.append(str(failure))
            self._enter("")
            self.report.answers = dict(self.tally.answers)

    # Stages.

    async def _begin(self, shop: Endpoint, platform: int) -> None:
        """Start the old release on empty services, apply the documented events, and send some that fail."""
        self._enter("begin")
        environment, old = self.world.environment, self.world.old
        ours = client_settings(f"http://127.0.0.1:{platform}")
        for name, value in ours.items():
            if name.startswith("BUYBACK"):
                environment[f"STOCKHOOK_{name}"] = value
        ovoko = {name: value for name, value in ours.items() if name.startswith("OVOKO")}
        shop.behaviour = _refusing(shop)
        await self._prepare(old)
        await feed.prepare(self.world.broker, self.world.backend.database_url)
        for name in INGESTS:
            self.world.put(name, old).start()
        # Enabled only now, so that details are not requested for every part of the load.
        for name in CONSUMERS:
            self.world.put(name, old, **ovoko).start()
        await self._all_ready()
        async with self._client("ingest-1") as client:
            sender = Sender(client, self.tally, RESEND_AFTER, self.record.on_accepted)
            webhooks = examples_of_all(self._credentials())
            await sender.play(self.record.recorded(webhooks, lambda: True), self.rate)
        await self._until_rows("return_items", "dead_letters", "unhandled_events")
        await self._until(self._are_actions_over, "Ovoko answered about the part and the return")
        await self.world.execute(BREAK_WRITES)
        for name in CONSUMERS:
            process = self.world.processes[name]
            self._note_end(name, await process.stop())
            self.world.put(name, old, KEEP_DEAD_LETTERS="false").start()
        await self._all_ready()

    async def _build_up(self) -> None:
        """Create every kind of state that an upgrade can encounter, with the old release under load."""
        self._enter("build up")
        old = self.world.old
        self.world.platform_fails()
        details = self.world.folder / "payment.json"
        details.write_text(json.dumps(PAYMENT))
        await self._command(
            old, "buyback", "payment-details", "by-hand", "--file", str(details), "--enqueue", "--key", "hand"
        )
        (letter,) = await self.world.fetch("SELECT min(dead_letter_id) FROM dead_letters")
        await self._command(old, "dead", "show", str(letter[0]), "--reveal")
        await self._dead_letters_lie_in_queues()
        async with self._changes_held():
            self.report.filled = await self._rows()
        empty = [name for name, rows in self.report.filled.items() if not rows and name not in NOT_FILLED]
        if empty:
            raise RunFailed(f"no row in {', '.join(empty)} when the upgrade began")

    async def _roll_back(self) -> None:
        """Go to the old release, and to the new one again."""
        old, new = self.world.old, self.world.new
        self._enter("restart")
        # The old release must process messages that the new one left in queues.
        await self._replace_consumers(new, KEEP_DEAD_LETTERS="false")
        await self._dead_letters_lie_in_queues()
        self._enter("rollback")
        await self._replace_ingests(old, "ingest-2")
        await self._replace_consumers(old)
        await self._dead_letters_are_moved()
        self._enter("second upgrade")
        await self._prepare(new)
        await self._replace_consumers(new)
        await self._replace_ingests(new, "ingest-1")

    async def _restart_one_by_one(self, cluster: RabbitCluster) -> None:
        """Restart all nodes of the broker, then all processes, without failing events."""
        self._enter("restart of all nodes")
        await self._until(self._are_retry_queues_empty, "no message in a retry queue")
        for node in cluster.nodes:
            began = monotonic()
            await asyncio.to_thread(cluster.stop, [node])
            await asyncio.to_thread(cluster.start, [node])
            await asyncio.to_thread(cluster.wait_until_members_online)
            recovery = await self._checked(self.pulse.recovery(Instant(), RECOVERY_SECONDS))
            name = node.settings.node_name
            self.report.handovers.append(Handover(self._stage, name, {}, None, monotonic() - began))
            if not recovery.is_complete:
                raise RunFailed(f"{self._stage}: after {name} was restarted: {recovery.unready}")
            self._check_meanwhile()
        self._enter("restart of all processes")
        for name in (*CONSUMERS, *INGESTS):
            await self._replace(name, self.world.new)

    async def _prepare(self, release: Release) -> None:
        """Do the first two steps of the guide."""
        await self._command(release, "migrate")
        await self._command(release, "topology")

    async def _replace_consumers(self, release: Release, **overrides: str) -> None:
        """Replace them one by one, with waiting changes and messages in every retry queue."""
        await self._until_retry_queues_are_met()
        for name in CONSUMERS:
            async with self._changes_held():
                await self._replace(name, release, **overrides)

    async def _replace_stopped_consumers(self, release: Release) -> None:
        """Stop every consumer, migrate, start the new ones. The ingests keep running."""
        await self._until_retry_queues_are_met()
        async with self._changes_held():
            queued = await self._queued()
            began = monotonic()
            for name in CONSUMERS:
                self._note_end(name, await self.world.processes[name].stop())
        await self._prepare(release)
        for name in CONSUMERS:
            self.world.put(name, release).start()
        await self._recovers("all consumers", queued, None, began)

    async def _replace_ingests(self, release: Release, away: str | None = None) -> None:
        """Replace them one by one; the ingest `away` has its events in its spool meanwhile."""
        self.plants = False
        await asyncio.sleep(CONFIRM_SECONDS)
        for name in INGESTS:
            proxies = self.world.proxies[name] if name == away else ()
            for proxy in proxies:
                await asyncio.to_thread(proxy.refuse)
                await asyncio.to_thread(proxy.reset)
            if proxies:
                await self._until_spooled(name, SPOOLED)
            await self._replace(name, release)
            if proxies:
                await self._until_spooled(name, 2 * SPOOLED)
            for proxy in proxies:
                await asyncio.to_thread(proxy.heal)
            await self._until_spooled(name, 0)
        self.plants = True

    async def _repair(self, shop: Endpoint) -> None:
        """End the failures that the test caused."""
        self.plants = False
        await self.world.execute(REMOVE_FAULT)
        self.world.simulation.faults.clear()
        shop.behaviour = lambda _: 204

    async def _settle(self) -> None:
        """Replay dead letters, retry failed actions, and wait until all queues are empty."""
        new = self.world.new
        await self._quiet()
        for reason in (SQLSTATE, "it answered 410"):
            result = await self._command(new, "dead", "replay", "--reason", reason, "--rate", "500", "--json")
            self.report.replayed += json.loads(result)["replayed"]
        failed = await self.world.fetch("SELECT action_id FROM actions WHERE state = 'failed'")
        for row in failed:
            await self._command(new, "actions", "retry", str(row["action_id"]))
        await self._quiet()
        await self._until(self._are_actions_over, "all actions are done")

    async def _judge(self, shop: Endpoint) -> None:
        self._enter("verdict")
        world, report = self.world, self.report
        judgement = await judge(
            self.record, self.tally.sent + self.tally.resent, self.tally.given_up, world.settings
        )
        posts = [json.loads(request.body) for request in shop.taken]
        feed_verdict = await feed.judge(world.backend.database_url, world.broker, posts, judgement.applied)
        report.totals = judgement.totals
        report.problems += judgement.problems + feed_verdict.problems
        report.problems += [f"{self.tally.given_up} webhooks given up"] if self.tally.given_up else []
        report.problems += [
            f"{times} answers of {status}"
            for status, times in self.tally.answers.items()
            if status[:1] == "5"
        ]
        rows = await world.fetch("SELECT state, count(*) AS actions FROM actions GROUP BY state")
        report.actions = {row["state"]: row["actions"] for row in rows}
        await self._judge_attempts()
        for command in (("audit", "--json"), ("topology", "--check")):
            done = await asyncio.to_thread(world.new.run, world.of(world.new), *command)
            if done.returncode != 0:
                report.problems.append(
                    f"{command[0]} ended with {done.returncode}: {done.stdout}{done.stderr}"[:2000]
                )

    async def _judge_attempts(self) -> None:
        lines = self._lines()
        failed = verdict.attempts(lines)
        self.report.failed_attempts = sum(len(attempts.numbers) for attempts in failed)
        applied = await self.world.fetch("SELECT event_id, attempt FROM event_log WHERE content_id IS NULL")
        replayed = await self.world.fetch("SELECT event_id FROM dead_letters WHERE state = 'replayed'")
        self.report.problems += verdict.unexpected_failures(lines) + verdict.disorderly(failed)
        self.report.problems += verdict.spent_attempts(
            failed,
            {str(row["event_id"]): row["attempt"] for row in applied},
            frozenset(str(row["event_id"]) for row in replayed),
        )

    # Steps.

    async def _replace(self, name: str, release: Release, **overrides: str) -> None:
        """Stop a process, start the other release instead, and wait for the recovery."""
        queued = await self._queued()
        spooled = await self.world.spooled(name) if name in INGESTS else None
        began = monotonic()
        process = self.world.processes[name]
        self._note_end(name, await process.stop())
        self.world.put(name, release, **overrides).start()
        await self._recovers(name, queued, spooled, began)

    async def _recovers(
        self, process: str, queued: Mapping[str, int], spooled: int | None, began: float
    ) -> None:
        """Wait until all processes are ready and new events are applied, and report the handover.

        Raises:
            RunFailed
        """
        await self._all_ready()
        recovery = await self._checked(self.pulse.recovery(Instant(), RECOVERY_SECONDS))
        self.report.handovers.append(Handover(self._stage, process, queued, spooled, monotonic() - began))
        if not recovery.is_complete:
            raise RunFailed(f"{self._stage}: after {process} was replaced: {recovery.unready}")
        self._check_meanwhile()

    async def _queued(self) -> dict[str, int]:
        """Ready messages per queue, without empty queues."""
        return {name: size for name, size in (await self.world.ready(self._queues())).items() if size}

    async def _checked(self, work: Awaitable[T]) -> T:
        """Await `work`, but end the run at the first failure that the test did not cause.

        Raises:
            RunFailed
        """
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait([task], timeout=CHECK_SECONDS))[0]:
                self._check_meanwhile()
            return task.result()
        finally:
            task.cancel()

    def _check_meanwhile(self) -> None:
        """End the run with the first failure that the test did not cause.

        Raises:
            RunFailed
        """
        lines = self._lines()
        failures = verdict.unexpected_failures(lines)
        failures += verdict.disorderly(verdict.attempts(lines))
        failures += [
            f"{name} ended by itself with exit codes {dict(process.ends)}"
            for name, process in self.world.processes.items()
            if process.ends
        ]
        if failures:
            raise RunFailed(f"{self._stage}: {'; '.join(failures)}")

    def _note_end(self, name: str, code: int) -> None:
        if code != 0:
            raise RunFailed(f"{self._stage}: {name} ended with {code} on SIGTERM")

    async def _command(self, release: Release, *arguments: str) -> str:
        """The output of `stockhook` of this release.

        Raises:
            RunFailed: Its exit code was not 0.
        """
        done = await asyncio.to_thread(release.run, self.world.of(release), *arguments)
        if done.returncode != 0:
            output = f"{done.stdout[-1000:]}{done.stderr[-1000:]}"
            raise RunFailed(
                f"{self._stage}: `stockhook {' '.join(arguments)}` of the {release.name} release ended with "
                f"{done.returncode}: {output}"
            )
        return done.stdout

    @asynccontextmanager
    async def _changes_held(self) -> AsyncIterator[None]:
        """Keep changes of parts in the outbox while the context is open; it starts once there are some."""
        connection = await asyncpg.connect(self.world.backend.database_url)
        try:
            async with connection.transaction():
                # Before the migration that renames tables it has another name.
                table = await connection.fetchval(CHANGE_LOCKS)
                await connection.execute(f"SELECT FROM {table} WHERE family = 'inventory' FOR UPDATE")
                await self._until_rows("changes")
                yield
        finally:
            await connection.close()

    @asynccontextmanager
    async def _load(self) -> AsyncIterator[None]:
        """Send webhooks at the rate, half of them to each ingest, until each was answered or given up."""
        webhooks = self.record.recorded(
            mixed(self.seed, self._credentials(), lambda: self.plants), lambda: not self.is_over
        )
        self.plants = True
        async with AsyncExitStack() as clients:
            tasks = [asyncio.create_task(self.pulse.watch())]
            for name in INGESTS:
                client = await clients.enter_async_context(self._client(name))
                sender = Sender(client, self.tally, RESEND_AFTER, self.record.on_accepted)
                tasks.append(asyncio.create_task(sender.play(webhooks, self.rate / len(INGESTS))))
            try:
                yield
                self.is_over = True
                _, pending = await asyncio.wait(tasks[1:], timeout=SENDER_SECONDS)
                if pending:
                    raise RunFailed("requests without answers")
                for task in tasks[1:]:
                    task.result()
            finally:
                self.is_over = True
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _client(self, name: str) -> Client:
        return Client(f"http://127.0.0.1:{self.world.ingest_ports[name]}", timeout_seconds=30)

    def _credentials(self) -> Credentials:
        return Credentials.of(self.world.settings, Provider)

    async def _stop(self) -> None:
        for process in self.world.processes.values():
            await process.stop()

    # Queries and waits.

    def _enter(self, stage: str) -> None:
        now = monotonic()
        if self._stage:
            self.report.stages[self._stage] = now - self._stage_began
        self._stage, self._stage_began = stage, now
        print(f"{time.strftime('%H:%M:%S')} {stage}", flush=True)

    def _lines(self) -> list[verdict.Line]:
        return self._logs.lines()

    def _queues(self) -> list[str]:
        delays = self.world.settings.delays
        webhook = QueueSet.of(origin_of(feed.WEBHOOK), delays)
        return [*(queue.name for queue in topology(delays).queues), *webhook.names]

    async def _rows(self) -> dict[str, int]:
        names = [row["name"] for row in await self.world.fetch(TABLES)]
        return {name: (await self.world.fetch(f"SELECT count(*) FROM {name}"))[0][0] for name in names}

    async def _until_rows(self, *tables: str) -> None:
        async def have_rows() -> bool:
            return all(
                [(await self.world.fetch(f"SELECT EXISTS (SELECT FROM {table})"))[0][0] for table in tables]
            )

        await self._until(have_rows, f"rows in {', '.join(tables)}")

    async def _until_spooled(self, name: str, events: int) -> None:
        """Wait until the spool has at least this many events; 0 means an empty spool."""

        async def are_spooled() -> bool:
            count = await self.world.spooled(name)
            return count is not None and (count >= events if events else count == 0)

        await self._until(are_spooled, f"{events} events in the spool of {name}")

    async def _all_ready(self) -> None:
        for name in self.world.processes:
            await self._until_ready(name)

    async def _until_ready(self, name: str) -> None:
        process = self.world.processes[name]
        async with httpx.AsyncClient(timeout=2) as client:
            await self._until(lambda: process.is_ready(client), f"{name} is ready")

    async def _until_retry_queues_are_met(self) -> None:
        """Wait until each retry queue has had a message."""
        unseen = {*self._retry_queues(*FAMILIES, ACTIONS, origin_of(feed.WEBHOOK))}

        async def are_met() -> bool:
            ready = await self.world.ready(unseen)
            unseen.difference_update(name for name, messages in ready.items() if messages)
            return not unseen

        try:
            await self._until(are_met, "a message in every retry queue")
        except RunFailed as failure:
            raise RunFailed(f"{failure}; none in {', '.join(sorted(unseen))}") from None

    async def _are_retry_queues_empty(self) -> bool:
        return not any((await self.world.ready(self._retry_queues(*FAMILIES))).values())

    def _retry_queues(self, *origins: str) -> list[str]:
        sets = [QueueSet.of(origin, self.world.settings.delays) for origin in origins]
        return [retry.name for queues in sets for retry in queues.retries]

    async def _dead_letters_lie_in_queues(self) -> None:
        queues = (QUARANTINE, *map(dead_queue, (*FAMILIES, origin_of(feed.WEBHOOK))))

        async def are_there() -> bool:
            return all((await self.world.ready(queues)).values())

        await self._until(are_there, "dead letters in every queue for them")

    async def _dead_letters_are_moved(self) -> None:
        """Wait until few are left; new ones arrive continuously."""

        async def are_moved() -> bool:
            return sum((await self.world.ready((QUARANTINE, *map(dead_queue, FAMILIES)))).values()) <= 2

        await self._until(are_moved, "dead letters are moved into the table")

    async def _are_actions_over(self) -> bool:
        (row,) = await self.world.fetch("SELECT count(*) FROM actions WHERE state <> 'done'")
        return int(row[0]) == 0

    async def _quiet(self) -> None:
        """Wait until no queue, outbox or spool has an entry."""

        async def is_quiet() -> bool:
            try:
                queued = Counter(await asyncio.to_thread(self.world.queued))
            except (ControlFailed, subprocess.TimeoutExpired):
                return False
            del queued[feed.QUEUE]
            queued["spools"] = sum([await self.world.spooled(name) or 0 for name in INGESTS])
            queued["changes"] = await feed.waiting(self.world.backend.database_url)
            self._waiting = {place: size for place, size in queued.items() if size}
            return not self._waiting

        try:
            await self._until(is_quiet, "all queues are empty", QUIET_SECONDS)
        except RunFailed as failure:
            raise RunFailed(f"{failure}; there is {self._waiting}") from None

    async def _until(
        self, condition: Callable[[], Awaitable[bool]], what: str, seconds: float = WAIT_SECONDS
    ) -> None:
        async def is_met() -> bool:
            end = monotonic() + seconds
            while not await condition():
                if monotonic() > end:
                    return False
                await asyncio.sleep(0.1)
            return True

        if not await self._checked(is_met()):
            raise RunFailed(f"{self._stage}: not within {seconds:.0f} s: {what}")


def _refusing(shop: Endpoint) -> Callable[[int], int]:
    """Accept one of 20 changes only at its last attempt, and answer one of 50 first with 410."""
    seen: Counter[str] = Counter()

    def behave(number: int) -> int:
        webhook_id = shop.requests[number].headers["webhook-id"]
        mark = sum(webhook_id.encode())
        seen[webhook_id] += 1
        if mark % 50 == 7 and seen[webhook_id] == 1:
            return 410
        if mark % 20 == 1 and seen[webhook_id] <= 3:
            return 503
        return 204

    return behave
