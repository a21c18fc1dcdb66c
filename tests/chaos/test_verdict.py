"""The verdict sees each broken promise: a run that finds nothing wrong has looked."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import islice

import pytest

from schemas.events import Provider
from tests.chaos.load import Record, webhooks
from tests.chaos.verdict import Verdict, judge
from tests.stack import Stack, until
from worker.broker import Message
from worker.send.client import Client
from worker.send.sender import Sender, Tally
from worker.send.webhook import Credentials
from worker.topology import RETURN, dead_queue

EVENTS = 800


@dataclass(slots=True)
class Played:
    """Events that a real product has taken in and applied."""

    stack: Stack
    record: Record

    async def verdict(self) -> Verdict:
        # The audit has tests of its own.
        return await judge(self.record, EVENTS, 0, self.stack.settings, self.stack.environment)


@pytest.fixture
async def played(stack: Stack) -> AsyncIterator[Played]:
    record, tally = Record(), Tally()
    worker = await stack.started("run")
    credentials = Credentials.of(stack.settings, Provider)
    async with Client(stack.url) as client:
        sender = Sender(client, tally, (), record.on_accepted)
        events = record.recorded(islice(webhooks(5, credentials), EVENTS), lambda: True)
        await sender.play(events, rate=1000)
    assert record.accepted == EVENTS

    async def quiet() -> bool:
        return set(await stack.depths()) <= {"stockhook.quarantine"}

    await until(quiet, "all are applied")
    assert await asyncio.to_thread(worker.stop) == 0
    yield Played(stack, record)


async def test_where_all_went_well_there_is_nothing_to_say(played: Played) -> None:
    verdict = await played.verdict()
    totals = verdict.totals

    assert verdict.problems == []
    assert totals.accepted == totals.applied == totals.sent > 600
    assert totals.quarantined > 0
    assert (totals.lost, totals.applied_twice, totals.dead, totals.applied_unanswered) == (0, 0, 0, 0)


async def test_a_lost_event_is_seen(played: Played) -> None:
    await played.stack.execute(
        "DELETE FROM event_log WHERE event_id = (SELECT event_id FROM event_log WHERE family = 'orders' LIMIT 1)"
    )
    verdict = await played.verdict()

    assert verdict.totals.lost == 1
    assert any("1 answered 2xx and not in the event log" in problem for problem in verdict.problems)


async def test_an_effect_applied_twice_is_seen(played: Played) -> None:
    await played.stack.execute("UPDATE returns SET update_count = update_count + 1 WHERE update_count > 0")
    verdict = await played.verdict()

    assert verdict.totals.applied_twice > 0
    assert all(problem.startswith("returns: ") for problem in verdict.problems)
    assert verdict.problems


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE parts SET status = 'sold' WHERE status = 'in_warehouse'", "parts: "),
        ("DELETE FROM buyback_items", "buyback_items: "),
        ("DELETE FROM findings", "findings: "),
        ("DELETE FROM communications", "communications: "),
        ("UPDATE orders SET cancelled_at = now()", "orders: "),
        ("DELETE FROM reminders", "reminders: "),
        ("UPDATE buyback_orders SET total_amount = total_amount + 1", "buyback_orders: "),
        (
            "INSERT INTO event_log (event_id, content_id, provider, type, family, entity_id, occurred_at, "
            "received_at, body) VALUES (gen_random_uuid(), gen_random_uuid(), 'ovoko', 'order.created', "
            "'orders', '1', now(), now(), '{}')",
            "1 in the event log and never sent",
        ),
    ],
)
async def test_a_false_row_is_seen(played: Played, damage: str, words: str) -> None:
    await played.stack.execute(damage)
    verdict = await played.verdict()

    assert any(problem.startswith(words) for problem in verdict.problems), verdict.problems


async def test_a_dead_letter_and_a_stray_in_the_quarantine_are_seen(played: Played) -> None:
    async with played.stack.broker.connection() as link:
        channel = await link.channel()
        await channel.publish(Message(RETURN, dead_queue("orders"), "ovoko.order.created", {}, b"{}"), 5)
        stray = Message("", "stockhook.quarantine", "quarantine.ovoko", {"x-event-id": "stray"}, b"{}")
        await channel.publish(stray, 5)
    verdict = await played.verdict()

    assert verdict.totals.dead == 1
    assert [problem for problem in verdict.problems if problem.startswith("1 dead letters")]
    assert "1 in the quarantine, but not odd: stray" in verdict.problems
