"""The verdict detects each broken promise."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import islice

import pytest

from schemas.registry import Provider
from tests.chaos import feed
from tests.chaos.load import Record, webhooks
from tests.chaos.model import KEYS
from tests.chaos.verdict import OBSERVED, Verdict, judge, misbehaviour, observe_attempts
from tests.support.feed import PublishedChange
from tests.support.stack import Stack, until
from worker.amqp.channel import Message
from worker.amqp.queue_set import QueueSet, dead_queue
from worker.amqp.topology import RETURN
from worker.simulator.http_client import Client
from worker.simulator.rate_sender import Sender, Tally
from worker.simulator.webhook import Credentials

EVENTS = 800


def test_answers_of_500_and_processes_that_end_by_themselves_are_problems() -> None:
    assert misbehaviour({"200": 9, "503": 2, "no answer": 1}, {"ingest": {-9: 3}, "consumer 1": {}}) == []
    assert misbehaviour({"200": 9, "500": 5}, {"ingest": {-9: 3}, "consumer 1": {1: 1, -9: 2}}) == [
        "5 answers of 500",
        "consumer 1 ended 1 times with exit code 1",
    ]


@dataclass(slots=True)
class Played:
    """Events that real processes accepted and applied."""

    stack: Stack
    record: Record

    async def verdict(self, *, failures_injected: bool = True) -> Verdict:
        return await judge(self.record, EVENTS, 0, self.stack.settings, failures_injected=failures_injected)


@pytest.fixture
async def played(stack: Stack) -> AsyncIterator[Played]:
    database_url = stack.environment["STOCKHOOK_DATABASE_URL"]
    await feed.prepare(stack.broker, database_url)
    await observe_attempts(stack.broker, stack.settings.delays)
    try:
        yield await _play(stack)
    finally:
        await stack.execute(feed.FORGET_COMMITTED)
        await stack.delete_queue(feed.QUEUE)
        await stack.delete_queue(OBSERVED)


async def _play(stack: Stack) -> Played:
    record, tally = Record(), Tally()
    worker = await stack.started("run")
    credentials = Credentials.of(stack.settings, Provider)
    async with Client(stack.url) as client:
        sender = Sender(client, tally, (), record.on_accepted)
        events = record.recorded(islice(webhooks(5, credentials), EVENTS), lambda: True)
        await sender.play(events, rate=1000)
    assert record.accepted == EVENTS

    async def quiet() -> bool:
        return set(await stack.depths()) <= {"stockhook.quarantine"} and await stack.count("changes") == 0

    await until(quiet, "all are applied")
    assert await asyncio.to_thread(worker.stop) == 0
    return Played(stack, record)


async def test_a_correct_run_has_no_findings(played: Played) -> None:
    verdict = await played.verdict()
    totals = verdict.totals

    assert verdict.problems == []
    assert totals.accepted == totals.applied == totals.sent > 600
    assert totals.quarantined > 0
    assert (totals.lost, totals.applied_twice, totals.dead, totals.applied_unanswered) == (0, 0, 0, 0)


async def test_published_changes_are_compared_with_committed_changes_and_with_the_tables(
    played: Played,
) -> None:
    stack, database_url = played.stack, played.stack.environment["STOCKHOOK_DATABASE_URL"]
    applied = (await played.verdict()).applied
    posts = await feed.committed(database_url)
    well = await feed.judge(database_url, stack.broker, posts, applied)
    [part] = await stack.fetch(
        "UPDATE parts SET status = 'wrong' WHERE part_id = (SELECT min(part_id) FROM parts) RETURNING part_id"
    )
    dropped = next(post for post in posts if post["subject"] != part["part_id"])
    others = [post for post in posts if post is not dropped]
    ill = await feed.judge(database_url, stack.broker, others, applied)

    assert well.problems == []
    assert well.published >= well.committed == well.posted > 500
    assert f"webhook: 1 different from the tables: ('part', '{part['part_id']}')" in ill.problems
    assert f"webhook: 1 committed and not received: {dropped['id']}" in ill.problems
    # The first verdict emptied it.
    assert f"queue: {len(posts)} committed and not received" in ill.problems[0]


def change(number: int, subject: str = "13", after: str = "sold") -> PublishedChange:
    return {
        "id": f"id.{number}",
        "type": f"stockhook.part.{after}",
        "subject": subject,
        "sequence": f"{number:019}.0000",
        "data": {"before": None, "after": {"status": after}},
    }


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ([1, 2, 3, 1, 2], []),
        ([1, 3], ["1 committed and not received: id.2"]),
        ([1, 2, 3, 4], ["1 received and not committed: id.4"]),
        ([2, 1, 3], ["1 received after a later one of the same entity: id.1"]),
    ],
)
def test_each_fault_of_received_changes_is_a_finding(received: list[int], expected: list[str]) -> None:
    committed = [change(number) for number in (1, 2, 3)]

    assert feed.faults(committed, [change(number) for number in received], in_order=True) == expected


def test_a_change_that_was_published_with_other_content_is_a_finding() -> None:
    assert feed.faults([change(1)], [change(1, after="reserved")], in_order=True) == [
        "1 received with other content than committed: id.1"
    ]


async def test_a_lost_event_and_one_that_was_never_sent_are_seen(played: Played) -> None:
    await played.stack.execute(
        "DELETE FROM event_log WHERE seq = (SELECT max(seq) FROM event_log WHERE family = 'orders');"
        "WITH made AS "
        "(INSERT INTO event_ids VALUES (gen_random_uuid(), gen_random_uuid()) RETURNING event_id) "
        "INSERT INTO event_log (event_id, provider, type, family, entity_id, occurred_at, received_at, body) "
        "SELECT event_id, 'ovoko', 'order.created', 'orders', '1', now(), now(), '{}' FROM made"
    )
    verdict = await played.verdict()

    assert verdict.totals.lost == 1
    assert [problem.partition(":")[0] for problem in verdict.problems[:2]] == [
        "1 answered 2xx and not in the event log",
        "1 in the event log and never sent",
    ]


async def test_false_rows_and_effects_applied_twice_are_seen(played: Played) -> None:
    await played.stack.execute(
        "UPDATE returns SET update_count = update_count + 1 WHERE update_count > 0;"
        "UPDATE parts SET status = 'sold' WHERE status = 'in_warehouse';"
        "UPDATE orders SET cancelled_at = now();"
        "UPDATE buyback_orders SET total_amount = total_amount + 1;"
        "UPDATE buyback_items SET rejection_reasons = '{none}';"
        "DELETE FROM buyback_shipments;"
        "DELETE FROM reminders;"
        "DELETE FROM communications;"
        "DELETE FROM findings"
    )
    verdict = await played.verdict()

    assert verdict.totals.applied_twice > 0
    assert {problem.partition(":")[0] for problem in verdict.problems} == set(KEYS)


async def test_an_attempt_that_was_spent_is_a_problem_where_no_failure_was_injected(played: Played) -> None:
    settings = played.stack.settings
    well = await played.verdict(failures_injected=False)
    async with played.stack.broker.connection() as connection:
        channel = await connection.channel()
        queue = QueueSet.of("orders", settings.delays).retries[0]
        copy = Message(RETURN, queue.name, "ovoko.order.created", {"x-attempt": 2}, b"{}")
        for _ in range(2):
            await channel.publish(copy, 5)
    injected = await played.verdict()
    async with played.stack.broker.connection() as connection:
        await (await connection.channel()).publish(copy, 5)
    ill = await played.verdict(failures_injected=False)

    assert (well.problems, well.totals.attempts_spent) == ([], 0)
    # The first verdict emptied the quarantine, so later ones report its events as missing.
    assert injected.totals.attempts_spent == 2
    assert not [problem for problem in injected.problems if "attempts spent" in problem]
    assert ill.totals.attempts_spent == 1
    assert "1 attempts spent by outages: ovoko.order.created" in ill.problems[0]


async def test_a_dead_letter_and_a_stray_in_the_quarantine_are_seen(played: Played) -> None:
    async with played.stack.broker.connection() as connection:
        channel = await connection.channel()
        await channel.publish(Message(RETURN, dead_queue("orders"), "ovoko.order.created", {}, b"{}"), 5)
        stray = Message("", "stockhook.quarantine", "quarantine.ovoko", {"x-event-id": "stray"}, b"{}")
        await channel.publish(stray, 5)
    verdict = await played.verdict()

    assert verdict.totals.dead == 1
    assert [problem for problem in verdict.problems if problem.startswith("1 dead letters")]
    assert "1 in the quarantine, but not malformed: stray" in verdict.problems
