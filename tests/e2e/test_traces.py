"""Traces at a real collector: one webhook from its request to the last retry, and its replay."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from schemas.examples import as_printed, documented
from tests.e2e.test_secrets import CUSTOMER, IBAN, canaries
from tests.support.collector import Collector, Exported, collecting, hanging
from tests.support.endpoint import endpoint, failing_first
from tests.support.events import numbered_id, sold
from tests.support.fault_sql import REMOVE_FAULT, fail_rows
from tests.support.stack import BUYBACK_TOKEN, OVOKO_SECRET, Stack, Worker, free_port, http_client, until
from tests.support.subscribers import subscribing

FOREIGN = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
POISON = fail_rows({"parts": "NEW.part_id = 'poison'"}, message="poison: a part of customer@example.com")
PROCESS = "process stockhook.inventory"
SEND = "send stockhook.events"


@pytest.fixture
async def collector(stack: Stack) -> AsyncIterator[Collector]:
    async with collecting() as collector:
        stack.environment |= collector.environment
        yield collector
        stack.close()


@pytest.fixture
async def poisoned(stack: Stack) -> AsyncIterator[Stack]:
    await stack.execute(POISON)
    yield stack
    stack.close()
    await stack.execute(REMOVE_FAULT)


async def post_with_context(stack: Stack, body: bytes) -> None:
    headers = {"X-Webhook-Secret": OVOKO_SECRET, "traceparent": f"00-{FOREIGN[0]}-{FOREIGN[1]}-01"}
    async with http_client() as client:
        response = await client.post(f"{stack.url}/webhooks/ovoko", content=body, headers=headers)
    assert response.status_code == 200


def lines_of(log: str, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def ids_of(spans: list[Exported]) -> set[tuple[str, str]]:
    return {span.ids for span in spans}


def batches_of(collector: Collector) -> list[Exported]:
    return [span for span in collector.named(PROCESS) if "messaging.batch.message_count" in span.attributes]


def handled(collector: Collector) -> set[tuple[str, str]]:
    """The publishes that a batch is linked to, or that are the parent of an attempt."""
    spans = collector.named(PROCESS)
    linked = {ids for span in batches_of(collector) for ids in span.links}
    return linked | {(span.trace_id, span.parent_id) for span in spans if span.parent_id}


async def test_one_trace_has_the_webhook_and_its_four_attempts_and_the_replay_is_linked_to_it(
    poisoned: Stack, collector: Collector
) -> None:
    poisoned.environment["STOCKHOOK_KEEP_DEAD_LETTERS"] = "true"
    await poisoned.started("ingest")
    consumer = await poisoned.started("consume", "inventory")
    await post_with_context(poisoned, sold("poison", 1))

    async def is_dead() -> bool:
        return await poisoned.count("dead_letters") == 1

    await until(is_dead, "the event is a dead letter", 40)
    await poisoned.execute(REMOVE_FAULT)
    shown = json.loads(poisoned.run("dead", "list", "--json").stdout)
    replayed = poisoned.run("dead", "replay", "--all")
    assert replayed.returncode == 0, replayed.stderr
    spans = await collector.wait_for(PROCESS, 5)
    (server,) = await collector.wait_for("POST /webhooks/ovoko")
    (send,) = await collector.wait_for(SEND)
    (replay,) = await collector.wait_for("send stockhook.return")
    attempts, applied = spans[:4], spans[4]
    event = {"messaging.message.id": numbered_id(1), "messaging.system": "rabbitmq"}
    size = {"messaging.message.body.size": len(sold("poison", 1))}
    processing = {"messaging.operation.name": "process", "messaging.operation.type": "process"}
    sending = {"messaging.operation.name": "send", "messaging.operation.type": "send"}

    assert (server.service, server.kind, server.parent_id) == ("stockhook-ingest", "SERVER", "")
    # A stranger's context is linked, and chooses no ids.
    assert server.links == (FOREIGN,)
    assert server.trace_id != FOREIGN[0]
    assert server.attributes == {
        "http.request.method": "POST",
        "http.route": "/webhooks/ovoko",
        "url.path": "/webhooks/ovoko",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "stockhook.event_id": numbered_id(1),
        "stockhook.result": "accepted",
    }
    assert (send.kind, send.trace_id, send.parent_id, send.links) == (
        "PRODUCER",
        server.trace_id,
        server.span_id,
        (),
    )
    assert send.attributes == {
        **event,
        **size,
        **sending,
        "messaging.destination.name": "stockhook.events:ovoko.part.status.changed",
    }
    for number, attempt in enumerate(attempts, start=1):
        came_over = "events:ovoko.part.status.changed" if number == 1 else "return"
        next_queue = ["retry.1s", "retry.2s", "retry.3s", "dead"][number - 1]
        assert (attempt.service, attempt.kind) == ("stockhook-consumer", "CONSUMER")
        assert (attempt.trace_id, attempt.parent_id, attempt.links) == (send.trace_id, send.span_id, ())
        assert (attempt.is_error, attempt.status_message) == (True, "")
        assert attempt.attributes == {
            **event,
            **size,
            **processing,
            "messaging.destination.name": f"stockhook.{came_over}:stockhook.inventory",
            "stockhook.attempt": number,
            "stockhook.next_queue": f"stockhook.inventory.{next_queue}",
            "error.type": "RaiseError",
        }
    assert (replay.service, replay.kind, replay.parent_id) == ("stockhook-replay", "PRODUCER", "")
    assert replay.trace_id != send.trace_id
    assert replay.links == (send.ids,)
    assert replay.attributes == {
        **event,
        **size,
        **sending,
        "messaging.destination.name": "stockhook.return:stockhook.inventory",
        "stockhook.replay": True,
    }
    assert (applied.trace_id, applied.parent_id) == (replay.trace_id, replay.span_id)
    assert (applied.links, applied.is_error) == ((send.ids,), False)
    assert applied.attributes["stockhook.attempt"] == 1
    assert all(span.began_at <= span.ended_at for span in collector.spans)
    transactions = collector.named("apply stockhook.inventory")
    assert [(span.kind, span.trace_id, span.parent_id) for span in transactions] == [
        ("INTERNAL", span.trace_id, span.span_id) for span in spans
    ]
    assert transactions[0].attributes == {"db.system.name": "postgresql", "stockhook.events": 1}
    # The logs, the dead letter and the event log have the ids.
    failed = lines_of(consumer.lines(), "delivery.failed")
    assert [(line["trace_id"], line["span_id"]) for line in failed] == [span.ids for span in attempts]
    assert [letter["evidence"] for letter in shown] == [{"trace_id": send.trace_id}]
    (logged,) = await poisoned.fetch("SELECT evidence FROM event_log")
    assert json.loads(logged["evidence"]) == {
        "trace_id": replay.trace_id,
        "origin_trace_id": send.trace_id,
    }
    url = {"STOCKHOOK_TRACE_URL": "https://traces.example/{trace_id}"}
    explained = poisoned.run("explain", "--gateway-id", send.trace_id, **url, COLUMNS="160").stdout
    assert f"https://traces.example/{replay.trace_id}" in explained
    assert f"origin trace id: {send.trace_id}" in explained
    letter = poisoned.run("dead", "show", str(shown[0]["dead_letter_id"]), **url).stdout
    assert f"trace            https://traces.example/{send.trace_id}" in letter
    assert not any(b"customer@example.com" in body or b"poison" in body for body in collector.bodies)


async def test_a_batch_is_linked_to_its_events_and_a_failed_one_has_a_span_in_its_own_trace(
    poisoned: Stack, collector: Collector
) -> None:
    number_of_events = 150
    await poisoned.started("ingest")
    for number in range(number_of_events):
        await poisoned.post_ovoko(sold("poison" if number == 70 else f"part-{number}", number))
    sent = await collector.wait_for(SEND, number_of_events)
    consumer = await poisoned.started("consume", "inventory", STOCKHOOK_RETRY_DELAYS="none")
    (failed,) = await collector.wait_for(
        PROCESS, stockhook__attempt=1, stockhook__next_queue="stockhook.inventory.dead"
    )

    async def are_handled() -> bool:
        return handled(collector) == ids_of(sent)

    await until(are_handled, "all events are in a batch, or alone")
    batches = batches_of(collector)
    (send,) = [span for span in sent if span.attributes["messaging.message.id"] == numbered_id(70)]
    (batch,) = [span for span in batches if send.ids in span.links]

    assert all(span.parent_id == "" and span.kind == "CONSUMER" for span in batches)
    assert all(span.attributes["messaging.batch.message_count"] == len(span.links) for span in batches)
    assert (failed.trace_id, failed.parent_id) == send.ids
    assert failed.links == (batch.ids,)
    assert failed.attributes["error.type"] == "RaiseError"
    # Histograms name such traces, in the format that has exemplars.
    exemplars = await exemplars_of(consumer)
    traces = {span.trace_id for span in collector.named(PROCESS)}
    for name in ("messaging_process_duration_seconds", "stockhook_batch_seconds"):
        assert exemplars[name], name
        assert {exemplar["trace_id"] for exemplar in exemplars[name]} <= traces


async def exemplars_of(worker: Worker) -> dict[str, list[dict[str, str]]]:
    async with http_client() as client:
        response = await client.get(
            f"http://127.0.0.1:{worker.ops_port}/metrics",
            headers={"Accept": "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.4"},
        )
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    return {
        family.name: [sample.exemplar.labels for sample in family.samples if sample.exemplar is not None]
        for family in text_string_to_metric_families(response.text)
    }


async def test_a_spooled_event_keeps_its_context_and_its_later_publish_is_linked_to_it(
    stack: Stack, collector: Collector
) -> None:
    away = f"amqp://127.0.0.1:{free_port()}/"
    ingest = stack.start("ingest", STOCKHOOK_AMQP_URL=away)

    async def accepts() -> bool:
        try:
            return (await stack.post_ovoko(sold("13", 1))).status_code == 200
        except httpx.TransportError:
            return False

    await until(accepts, "the ingest spools the event", 30)
    (spooled,) = await collector.wait_for(SEND, stockhook__spooled=True)
    ingest.stop()
    await stack.started("ingest")
    drained = (await collector.wait_for(SEND, 2))[1]
    message = await until(lambda: stack.get("stockhook.inventory"), "the event is published")

    assert message.headers["traceparent"] == f"00-{spooled.trace_id}-{spooled.span_id}-01"
    assert (drained.kind, drained.parent_id, drained.links) == ("PRODUCER", "", (spooled.ids,))
    assert drained.attributes["stockhook.spooled"] is True


async def test_no_span_has_a_secret_or_a_person(stack: Stack, collector: Collector) -> None:
    await stack.execute(
        fail_rows({"buyback_orders": "true", "orders": "true"}, message=f"of {CUSTOMER}, {IBAN}")
    )
    stack.environment["STOCKHOOK_RETRY_DELAYS"] = "none"
    await stack.started("ingest")
    examples = [*documented(), *as_printed()]
    for example in examples:
        assert (await stack.post(example.provider, canaries(example.body))).status_code == 200
    named = {"type": f"Order {CUSTOMER}", "token": BUYBACK_TOKEN, "result": {"note": IBAN}}
    assert (await stack.post_buyback(json.dumps(named).encode())).status_code == 200
    broken = {"type": "OrderCreatedEvent", "token": BUYBACK_TOKEN, "result": {"timestamp": CUSTOMER}}
    assert (await stack.post_buyback(json.dumps(broken).encode())).status_code == 200
    await stack.post_buyback(b'{"type":"x","token":"a-wrong-canary-token"}')
    await stack.started("consume")
    await collector.wait_for(SEND, len(examples) + 2)
    await collector.wait_for("process stockhook.buybacks", 2)
    for worker in stack.workers:
        assert worker.stop() == 0
    await stack.execute(REMOVE_FAULT)
    people = [name for example in documented() for name in names_in(json.loads(example.body))]

    assert len(people) > 5
    for canary in (BUYBACK_TOKEN, OVOKO_SECRET, IBAN, CUSTOMER, "a-wrong-canary-token", *people):
        assert not any(canary.encode() in body for body in collector.bodies), canary


def names_in(value: object) -> list[str]:
    """Names, addresses and telephone numbers in an example."""
    if isinstance(value, list):
        return [name for each in value for name in names_in(each)]
    if not isinstance(value, dict):
        return []
    private = {"firstName", "lastName", "email", "phone", "phoneNumber", "firstLine", "beneficiaryName"}
    own = [text for key, text in value.items() if key in private and isinstance(text, str) and len(text) > 3]
    return own + [name for each in value.values() for name in names_in(each)]


async def test_a_collector_that_is_away_costs_only_spans(stack: Stack) -> None:
    away = {
        "STOCKHOOK_TRACING": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    ingest = await stack.started("ingest", **away)
    consumer = await stack.started("consume", "inventory", **away)
    for number in range(20):
        assert (await stack.post_ovoko(sold(f"part-{number}", number))).status_code == 200

    async def are_applied() -> bool:
        return await stack.count("event_log") == 20

    async def are_counted() -> bool:
        text = (await stack.ops(ingest.ops_port, "/metrics")).text
        (line,) = [
            line
            for line in text.splitlines()
            if line.startswith('stockhook_spans_dropped_total{reason="export_failed"}')
        ]
        return float(line.split()[1]) >= 40

    await until(are_applied, "the events are applied")
    await until(are_counted, "the dropped spans are counted", 30)
    assert (ingest.stop(), consumer.stop()) == (0, 0)
    (warning,) = lines_of(ingest.lines(), "spans.dropped")
    assert warning["reason"] == "the collector did not accept them: check OTEL_EXPORTER_OTLP_ENDPOINT"


async def test_a_collector_that_never_answers_costs_only_the_spans_beyond_the_bound(stack: Stack) -> None:
    """An export that hangs ends neither by itself nor by the next full queue: each would take minutes."""
    waiting, exported_at_once = 20, 10
    async with hanging() as (url, was_called):
        hangs = {
            "STOCKHOOK_TRACING": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "600",
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
            "OTEL_BSP_MAX_QUEUE_SIZE": str(waiting),
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": str(exported_at_once),
        }
        ingest = await stack.started("ingest", **hangs)
        consumer = await stack.started("consume", "inventory", **hangs)
        for number in range(40):
            assert (await stack.post_ovoko(sold(f"part-{number}", number))).status_code == 200

        async def are_applied() -> bool:
            return await stack.count("event_log") == 40

        await until(are_applied, "the events are applied")
        await asyncio.wait_for(was_called.wait(), 20)
        text = (await stack.ops(ingest.ops_port, "/metrics")).text
        dropped = 2 * 40 - waiting - exported_at_once
        assert f'stockhook_spans_dropped_total{{reason="queue_full"}} {dropped}.0' in text.splitlines()
        assert 'stockhook_spans_dropped_total{reason="export_failed"} 0.0' in text.splitlines()
        assert (ingest.stop(), consumer.stop()) == (0, 0)


async def test_a_fraction_of_events_is_recorded_with_the_batches_that_have_them(
    stack: Stack, collector: Collector
) -> None:
    stack.environment |= {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.2"}
    await stack.started("ingest")
    for number in range(60):
        await stack.post_ovoko(sold(f"part-{number}", number))
    await stack.started("consume", "inventory")

    async def are_applied() -> bool:
        return await stack.count("event_log") == 60

    await until(are_applied, "the events are applied")
    for worker in stack.workers:
        assert worker.stop() == 0
    sent = collector.named(SEND)

    assert 0 < len(sent) < 60
    assert handled(collector) == ids_of(sent)
    rows = await stack.fetch("SELECT evidence FROM event_log WHERE evidence IS NOT NULL")
    assert {json.loads(row["evidence"])["trace_id"] for row in rows} == {span.trace_id for span in sent}


async def test_a_change_is_linked_to_its_event_and_a_subscriber_gets_the_context(
    stack: Stack, collector: Collector
) -> None:
    async with endpoint(failing_first(1, 503)) as shop, subscribing(stack) as configure:
        configure(("shop", shop.url))
        await stack.started("consume", "inventory")
        await stack.started("ingest")
        await stack.post_ovoko(sold("13", 1))
        failed, delivered = await collector.wait_for("POST webhook.shop", 2)
        (send,) = await collector.wait_for(SEND)
        (published,) = await collector.wait_for("send stockhook.changes")
    event = json.loads(shop.requests[1].body)
    attributes = {
        "http.request.method": "POST",
        "server.address": "127.0.0.1",
        "server.port": urlsplit(shop.url).port,
        "stockhook.subscriber": "shop",
        "stockhook.change_id": event["id"],
    }

    assert (published.kind, published.parent_id, published.links) == ("PRODUCER", "", (send.ids,))
    assert published.attributes["messaging.destination.name"] == "stockhook.changes:stockhook.part.sold"
    # The extension names the trace in which it all began; the headers name each hop.
    assert event["traceparent"] == f"00-{send.trace_id}-{send.span_id}-01"
    for attempt, (span, request) in enumerate(zip((failed, delivered), shop.requests, strict=True), start=1):
        status = 503 if attempt == 1 else 204
        error = {"error.type": "NotDelivered"} if attempt == 1 else {}
        assert (span.kind, span.trace_id, span.parent_id) == ("CLIENT", published.trace_id, published.span_id)
        assert request.headers["traceparent"] == f"00-{span.trace_id}-{span.span_id}-01"
        assert span.attributes == {
            **attributes,
            **error,
            "stockhook.attempt": attempt,
            "http.response.status_code": status,
        }
