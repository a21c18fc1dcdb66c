"""Checks after the run: lost events, double effects, wrong dead letters, wrong rows."""

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg

from consumers.registry import FAMILIES
from deploy.local.services import CHECKOUT
from schemas.envelope import HEADERS
from tests.chaos.load import Record, Sent, Taken, take
from tests.chaos.model import (
    applied_twice,
    columns_of,
    differences,
    logged,
    model,
    stored,
    stored_unhandled_types,
)
from tests.chaos.report import Totals
from worker.amqp.connection import Broker
from worker.amqp.queue_set import QueueSet, dead_queue
from worker.amqp.topology import (
    QUARANTINE,
    RETURN,
    Binding,
    Queue,
    Topology,
)
from worker.cli.app import app
from worker.config.settings import Settings

OBSERVED = "chaos.attempts"
LISTED = 5
AUDIT_SECONDS = 180

DEAD_LETTERS = """
SELECT origin, state, type, reason, attempts, event_id
FROM dead_letters
WHERE origin <> 'quarantine' AND state <> 'replayed'
"""

ARCHIVED_QUARANTINE = """
SELECT event_id
FROM dead_letters
WHERE origin = 'quarantine'
UNION ALL
SELECT event_id
FROM unhandled_events
"""


def misbehaviour(answers: Mapping[str, int], ends: Mapping[str, Mapping[int, int]]) -> list[str]:
    """Answers of 500, and processes that ended without being killed.

    `answers` are counted by status, `ends` by process and exit code.
    """
    return [
        *([f"{answers['500']} answers of 500"] if answers.get("500") else []),
        *(
            f"{process} ended {times} times with exit code {code}"
            for process, codes in ends.items()
            for code, times in codes.items()
            if code != -signal.SIGKILL
        ),
    ]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`applied` are the events of the log."""

    totals: Totals
    problems: list[str]
    applied: tuple[Taken, ...]


async def observe_attempts(broker: Broker, delays: Sequence[timedelta]) -> None:
    """Record a copy of every message that is published to a retry queue or as a dead letter."""
    sets = [QueueSet.of(family, delays) for family in FAMILIES]
    keys = [name for queues in sets for name in queues.names if name != queues.main]
    async with broker.connection() as connection:
        channel = await connection.channel()
        queue = Queue(OBSERVED, {"x-queue-type": "quorum"})
        bindings = tuple(Binding(RETURN, OBSERVED, key) for key in keys)
        await channel.ensure_topology(Topology((), (queue,), bindings))


async def judge(
    record: Record, requests: int, given_up: int, settings: Settings, *, failures_injected: bool = True
) -> Verdict:
    """`settings` lead to the services without the proxies.

    If no failure was injected, each spent attempt is a problem, because outages must not spend any.
    """
    database_url = settings.database_url.get_secret_value()
    taken = [(entry, take(entry.webhook, settings)) for entry in record.sent.values()]
    problems = _wrong_ids(taken)

    events = {sent.identity: sent for _, sent in taken if not sent.is_malformed}
    accepted = {sent.identity for entry, sent in taken if entry.accepted and not sent.is_malformed}
    in_log = await logged(database_url)
    lost = accepted - in_log.keys()
    problems += _listed("answered 2xx and not in the event log", lost)
    problems += _listed("in the event log and never sent", in_log.keys() - events.keys())
    problems += _listed(
        "more than once in the event log", [key for key, times in in_log.items() if times > 1]
    )

    applied = tuple(events[identity] for identity in in_log if identity in events)
    expected = await model(applied, await stored_unhandled_types(database_url))
    actual = await stored(database_url, columns_of(expected))
    problems += differences(expected, actual)

    spent = await _attempts_spent(settings)
    if not failures_injected:
        problems += _listed("attempts spent by outages", spent)
    dead = await _dead(settings, database_url)
    problems += _listed("dead letters", dead)
    quarantined = await _quarantined(settings, database_url)
    problems += _wrongly_quarantined(taken, quarantined)
    totals = Totals(
        sent=len(events),
        requests=requests,
        answers_2xx=record.accepted,
        accepted=len(accepted),
        lost=len(lost),
        applied=len(in_log),
        applied_twice=applied_twice(expected, actual) + sum(times - 1 for times in in_log.values()),
        applied_unanswered=len(in_log.keys() - accepted),
        attempts_spent=len(spent),
        given_up=given_up,
        dead=len(dead),
        quarantined=len(quarantined),
    )
    return Verdict(totals, problems, applied)


def _wrong_ids(taken: Sequence[tuple[Sent, Taken]]) -> list[str]:
    wrong = [
        f"{entry.answered_ids} instead of {sent.identity.event_id}"
        for entry, sent in taken
        if entry.answered_ids - {str(sent.identity.event_id)}
    ]
    return _listed("answered with another event id", wrong)


def _wrongly_quarantined(taken: Sequence[tuple[Sent, Taken]], quarantined: Counter[str]) -> list[str]:
    """A repeated malformed event is there twice: the quarantine does not remove repeats."""
    malformed = {str(sent.identity.event_id) for _, sent in taken if sent.is_malformed}
    accepted = {str(sent.identity.event_id) for entry, sent in taken if sent.is_malformed and entry.accepted}
    return [
        *_listed("answered 2xx and not in the quarantine", accepted - quarantined.keys()),
        *_listed("in the quarantine, but not malformed", quarantined.keys() - malformed),
    ]


def _listed(label: str, wrong: Any) -> list[str]:
    """One line with the number and some examples."""
    several = list(wrong)
    if not several:
        return []
    return [f"{len(several)} {label}: {', '.join(map(str, several[:LISTED]))}"]


async def _dead(settings: Settings, database_url: str) -> list[str]:
    """Waiting dead letters, in queues and in the table."""
    problems: list[str] = []
    async with Broker(settings.amqp_url.get_secret_value(), "chaos").connection() as broker_connection:
        channel = await broker_connection.channel()
        for family in FAMILIES:
            while (delivery := await channel.get(dead_queue(family))) is not None:
                ours = {name: delivery.headers.get(name) for name in HEADERS if name in delivery.headers}
                problems.append(f"{family}: {ours}")
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(DEAD_LETTERS)
        problems += [f"table: {dict(row)}" for row in rows]
    finally:
        await connection.close()
    return problems


async def _attempts_spent(settings: Settings) -> list[str]:
    """All messages that were published to retry queues or as dead letters, with their headers."""
    async with Broker(settings.amqp_url.get_secret_value(), "chaos").connection() as connection:
        if await connection.depth(OBSERVED) is None:
            return []
        channel = await connection.channel()
        problems = []
        while (delivery := await channel.get(OBSERVED)) is not None:
            ours = {name: delivery.headers.get(name) for name in HEADERS if name in delivery.headers}
            problems.append(f"{delivery.type}: {ours}")
    return problems


async def _quarantined(settings: Settings, database_url: str) -> Counter[str]:
    """The number of messages of each event id in the queue, or archived from it."""
    quarantined: Counter[str] = Counter()
    connection = await asyncpg.connect(database_url)
    try:
        quarantined.update(str(row["event_id"]) for row in await connection.fetch(ARCHIVED_QUARANTINE))
    finally:
        await connection.close()
    async with Broker(settings.amqp_url.get_secret_value(), "chaos").connection() as broker_connection:
        channel = await broker_connection.channel()
        while (delivery := await channel.get(QUARANTINE)) is not None:
            quarantined[str(delivery.headers["x-event-id"])] += 1
    return quarantined


def audit(environment: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Problems and notes of `stockhook audit`, if this version has it."""
    if "audit" not in app:
        return [], ["this release has no `stockhook audit`"]
    done = run_command(environment, "audit", "--json")
    try:
        document = json.loads(done.stdout)
    except ValueError:
        return [f"`stockhook audit` ended with {done.returncode} and no JSON: {done.stderr[-500:]}"], []
    if done.returncode == 0:
        return [], []
    missing, feed = document.get("missing"), document.get("feed")
    return [f"`stockhook audit` ended with {done.returncode}: missing {missing}, changes {feed}"], []


def run_command(environment: Mapping[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `stockhook` and wait until it ends."""
    return subprocess.run(
        [sys.executable, "-m", "worker", *arguments],
        env=dict(environment),
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=AUDIT_SECONDS,
        check=False,
    )
