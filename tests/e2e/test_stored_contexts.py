"""The contexts of events that wait in tables: of changes, actions and unhandled events."""

import json
from functools import partial

from schemas.trace_context import read_context
from tests.e2e.test_actions import Platform, platform
from tests.e2e.test_changes import has_died
from tests.e2e.test_traces import SEND, collector
from tests.e2e.test_unhandled import ARCHIVING, archived, moved
from tests.support.collector import Collector
from tests.support.events import sold
from tests.support.stack import Stack, until
from worker.amqp.tap import Delivery
from worker.amqp.topology import CHANGES, RETURN
from worker.simulator.faults import Kind

__all__ = ["collector", "platform"]  # fixtures

TRACE_URL = "https://traces.example/{trace_id}"


async def test_a_change_that_is_published_again_has_the_same_body_and_another_span(
    stack: Stack, collector: Collector
) -> None:
    received: list[Delivery] = []
    await stack.started("ingest")
    async with stack.broker.connection() as connection:
        channel = await connection.channel()
        await channel.subscribe_exclusive(CHANGES, ["#"], "test", received.append)
        await stack.post_ovoko(sold("13", 1))
        # The first process leaves the change in the table; the second one dies before it deletes it there.
        for point in ("committed:1", "change_published:1"):
            dying = stack.start("consume", "inventory", STOCKHOOK_CRASH_AT=point)
            await until(partial(has_died, dying), f"the consumer dies at {point}")
        await stack.started("consume", "inventory")

        async def are_received() -> bool:
            return len(received) == 2

        await until(are_received, "the change is published again")
    (send,) = await collector.wait_for(SEND)
    first, second = received
    contexts = [read_context(delivery.headers) for delivery in received]

    assert first.body == second.body
    assert json.loads(first.body)["traceparent"] == f"00-{send.trace_id}-{send.span_id}-01"
    assert None not in contexts
    assert len({send.trace_id, *(context.trace_id for context in contexts if context)}) == 3


async def test_an_action_has_one_trace_with_its_attempts_and_the_calls_of_the_api(
    platform: Platform, collector: Collector
) -> None:
    platform.fail(Kind.UNAVAILABLE, times=1, seconds=0)
    await platform.stack.started_apart(STOCKHOOK_CHANGES="false")
    await platform.miss()
    (row,) = await platform.settled("done")
    attempts = await collector.wait_for("process stockhook.actions", 2)
    (send,) = await collector.wait_for("send stockhook.return")
    calls = await collector.wait_for("POST", 2, **{"server__address": "127.0.0.1"})
    (webhook,) = await collector.wait_for(SEND)
    action = str(row["action_id"])

    assert (send.kind, send.parent_id, send.attributes["messaging.message.id"]) == ("PRODUCER", "", action)
    # It is another trace, linked to that of the event.
    assert send.links == (webhook.ids,)
    assert send.trace_id != webhook.trace_id
    assert [span.attributes["stockhook.attempt"] for span in attempts] == [1, 2]
    assert [span.attributes["stockhook.result"] for span in attempts] == ["retried", "done"]
    assert [span.is_error for span in attempts] == [True, False]
    for span in attempts:
        assert (span.kind, span.trace_id, span.parent_id) == ("CONSUMER", send.trace_id, send.span_id)
        assert span.attributes["messaging.message.id"] == action
        assert span.attributes["stockhook.action_kind"] == "buyback.rerequest_pickup"
    assert {span.kind for span in calls} == {"CLIENT"}
    assert {(span.trace_id, span.parent_id) for span in calls} >= {span.ids for span in attempts}
    assert {503, 201} <= {span.attributes["http.response.status_code"] for span in calls}


async def test_an_action_that_a_person_retries_is_linked_to_its_event_and_to_its_first_trace(
    platform: Platform, collector: Collector
) -> None:
    stack = platform.stack
    platform.fail(Kind.UNAVAILABLE, times=1, seconds=0)
    await stack.started_apart(STOCKHOOK_CHANGES="false", STOCKHOOK_RETRY_DELAYS="none")
    await platform.miss()
    (failed,) = await platform.settled("failed")
    action = str(failed["action_id"])
    before = json.loads(stack.run("actions", "show", action, "--json").stdout)
    assert stack.run("actions", "retry", action).returncode == 0
    await platform.settled("done")
    (webhook,) = await collector.wait_for(SEND)
    first, second = await collector.wait_for("send stockhook.return", 2)
    attempts = await collector.wait_for("process stockhook.actions", 2)
    shown = json.loads(stack.run("actions", "show", action, "--json").stdout)
    text = stack.run("actions", "show", action, STOCKHOOK_TRACE_URL=TRACE_URL, COLUMNS="160").stdout

    assert first.links == (webhook.ids,)
    assert second.links == (webhook.ids, first.ids)
    assert [(span.trace_id, span.parent_id) for span in attempts] == [first.ids, second.ids]
    assert (before["trace_id"], before["origin_trace_id"]) == (first.trace_id, webhook.trace_id)
    assert (shown["trace_id"], shown["origin_trace_id"]) == (second.trace_id, webhook.trace_id)
    assert not {"traceparent", "published_traceparent"} & shown.keys()
    for trace_id in (second.trace_id, webhook.trace_id):
        assert f"https://traces.example/{trace_id}\n" in text


async def test_without_tracing_an_action_passes_the_context_of_its_event_on(
    platform: Platform, collector: Collector
) -> None:
    stack = platform.stack
    published: list[Delivery] = []
    await stack.started("ingest")
    async with stack.broker.connection() as connection:
        channel = await connection.channel()
        await channel.subscribe_exclusive(RETURN, ["stockhook.actions"], "test", published.append)
        await stack.started("consume", "buybacks", STOCKHOOK_TRACING="false")
        await platform.miss()
        (row,) = await platform.settled("done")
    (webhook,) = await collector.wait_for(SEND)
    context = f"00-{webhook.trace_id}-{webhook.span_id}-01"

    assert (row["traceparent"], row["published_traceparent"]) == (context, None)
    assert [delivery.headers["traceparent"] for delivery in published] == [context]


async def test_a_replay_of_an_unhandled_event_is_linked_to_its_first_publish(
    stack: Stack, collector: Collector
) -> None:
    await stack.started("ingest")
    await stack.started("consume", "inventory", **ARCHIVING)
    assert (await stack.post_ovoko(moved(1))).status_code == 200
    (row,) = await archived(stack, 1)
    (first,) = await collector.wait_for(SEND)
    number = str(row["unhandled_event_id"])
    shown = json.loads(stack.run("unhandled", "show", number, "--json").stdout)
    text = stack.run("unhandled", "show", number, STOCKHOOK_TRACE_URL=TRACE_URL, COLUMNS="160").stdout
    # As if a family of a later release handled its type.
    await stack.execute(
        f"UPDATE unhandled_events SET type = 'part.status.changed', body = '\\x{sold('13', 2).hex()}'::bytea"
    )
    replayed = stack.run("unhandled", "replay", "--all")
    assert replayed.stdout == "replayed 1 of 1 event\n", replayed.stderr
    (replay,) = await collector.wait_for(SEND, stockhook__replay=True)
    (applied,) = await collector.wait_for("process stockhook.inventory")
    (logged,) = await stack.fetch("SELECT evidence FROM event_log")

    assert row["traceparent"] == f"00-{first.trace_id}-{first.span_id}-01"
    assert shown["trace_id"] == first.trace_id
    assert f"https://traces.example/{first.trace_id}\n" in text
    assert (replay.service, replay.parent_id, replay.links) == ("stockhook-replay", "", (first.ids,))
    assert replay.trace_id != first.trace_id
    assert (applied.trace_id, applied.parent_id, applied.links) == (*replay.ids, (first.ids,))
    assert json.loads(logged["evidence"]) == {
        "trace_id": replay.trace_id,
        "origin_trace_id": first.trace_id,
    }
