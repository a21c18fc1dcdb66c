"""Whose context a webhook continues, and whose it is only linked to."""

from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest

from schemas.trace_context import TraceContext
from tests.support.collector import Collector, collecting
from tests.support.endpoint import endpoint, failing_first
from tests.unit.test_gateway import OWN, behind, signed
from tests.unit.test_service import BODY, Stored, chunks, settings
from worker.config.settings import Settings
from worker.ingest.event_sink import NotStored
from worker.ingest.exchange import Request, Response
from worker.ingest.service import Ingest
from worker.marketplaces.http import fetch
from worker.observability.tracing import Kind as SpanKind
from worker.observability.tracing import active, tracing

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CONTEXT = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "rojo=1"}


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    async with collecting() as collector:
        for name, value in collector.environment.items():
            monkeypatch.setenv(name, value)
        yield collector


async def ask(
    configured: Settings,
    headers: dict[str, str],
    stored: Stored,
    *,
    is_from_proxy: bool = False,
    path: str = "/webhooks/ovoko",
    body: bytes = BODY,
) -> Response:
    request = Request(
        "POST",
        path,
        {"transfer-encoding": "chunked", **headers},
        chunks(body),
        is_from_proxy=is_from_proxy,
    )
    return await Ingest(configured, stored).handle(request)


SIGNED = {**OWN, **signed(BODY)}


@pytest.mark.parametrize(
    ("configured", "headers", "is_from_proxy", "is_continued"),
    [
        (settings(), OWN, False, False),
        (settings(), OWN, True, False),
        (settings(trust_traceparent=True), OWN, False, False),
        (settings(trust_traceparent=True), OWN, True, True),
        (behind("hookdeck"), SIGNED, False, False),
        (behind("hookdeck", trust_traceparent=True), SIGNED, False, True),
        (behind("hookdeck", trust_traceparent=True, gateway_require="optional"), OWN, False, False),
    ],
)
async def test_only_a_trusted_context_is_continued(
    configured: Settings,
    headers: dict[str, str],
    is_from_proxy: bool,
    is_continued: bool,
    collector: Collector,
) -> None:
    stored = Stored()
    with tracing(True, "ingest", 200):
        response = await ask(configured, {**headers, **CONTEXT}, stored, is_from_proxy=is_from_proxy)
    (server,) = await collector.wait_for("POST /webhooks/ovoko")
    (send,) = await collector.wait_for("send stockhook.events")
    (message,) = stored.messages

    assert response.status == 200
    assert send.parent_id == server.span_id
    assert message.headers["traceparent"] == f"00-{send.trace_id}-{send.span_id}-01"
    if is_continued:
        assert (server.trace_id, server.parent_id, server.links) == (TRACE, SPAN, ())
        assert message.headers["tracestate"] == "rojo=1"
    else:
        assert (server.parent_id, server.links) == ("", ((TRACE, SPAN),))
        assert server.trace_id != TRACE
        assert "tracestate" not in message.headers


async def test_a_request_is_named_by_its_route_and_scheme_without_the_prefix_of_its_path(
    collector: Collector,
) -> None:
    configured = settings(
        ingest_path_prefix="/known-to-few", ingest_certificate_file="c.pem", ingest_key_file="k.pem"
    )
    with tracing(True, "ingest", 200):
        response = await ask(configured, OWN, Stored(), path="/known-to-few/webhooks/ovoko")
    (server,) = await collector.wait_for("POST /webhooks/ovoko")

    assert response.status == 200
    assert server.attributes["http.route"] == server.attributes["url.path"] == "/webhooks/ovoko"
    assert server.attributes["url.scheme"] == "https"
    assert not any(b"known-to-few" in body for body in collector.bodies)


async def test_a_stranger_does_not_decide_what_is_recorded(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    stored = Stored()
    with tracing(True, "ingest", 200):
        await ask(settings(), {**OWN, **CONTEXT}, stored)
        await ask(settings(trust_traceparent=True), {**OWN, **CONTEXT}, stored, is_from_proxy=True)

    (server,) = await collector.wait_for("POST /webhooks/ovoko")
    assert server.trace_id == TRACE
    assert str(stored.messages[0].headers["traceparent"]).endswith("-00")


@pytest.mark.parametrize("malformed", ["x" * 5000, f"00-{TRACE}-{SPAN}-01-more", "00-0-0-0", "\u202e"])
async def test_a_malformed_context_does_no_harm(malformed: str, collector: Collector) -> None:
    stored = Stored()
    headers = {**OWN, "traceparent": malformed, "tracestate": "=" * 5000}
    with tracing(True, "ingest", 200):
        response = await ask(settings(trust_traceparent=True), headers, stored, is_from_proxy=True)

    (server,) = await collector.wait_for("POST /webhooks/ovoko")
    assert (response.status, server.parent_id, server.links) == (200, "", ())


async def test_a_refused_stranger_leaves_no_span_and_a_fault_of_ours_does(collector: Collector) -> None:
    with tracing(True, "ingest", 200):
        assert (await ask(settings(), {}, Stored())).status == 401
        # Such a marketplace has its secret in the body.
        for body, status in ((b'{"type": "x", "token": "wrong"}', 401), (b"{", 400)):
            refused = await ask(settings(), CONTEXT, Stored(), path="/webhooks/buyback", body=body)
            assert refused.status == status
        assert (await ask(settings(), OWN, Stored(NotStored("no room")))).status == 503

    (server,) = await collector.wait_for("POST /webhooks/ovoko")
    (send,) = await collector.wait_for("send stockhook.events")
    assert collector.named("POST /webhooks/buyback") == []
    assert (server.is_error, server.attributes["error.type"]) == (True, "503")
    assert server.attributes["http.response.status_code"] == 503
    assert (send.is_error, send.attributes["error.type"]) == (True, "NotStored")


@pytest.mark.parametrize("is_trusted", [True, False])
async def test_without_tracing_a_trusted_context_is_passed_on(is_trusted: bool) -> None:
    stored = Stored()
    foreign = {"x-origin-traceparent": CONTEXT["traceparent"]}
    await ask(
        settings(trust_traceparent=is_trusted), {**OWN, **CONTEXT, **foreign}, stored, is_from_proxy=True
    )
    names = CONTEXT.keys() | foreign.keys()

    passed = {name: value for name, value in stored.messages[0].headers.items() if name in names}
    assert passed == (CONTEXT if is_trusted else {})


async def test_a_batch_keeps_all_its_links(collector: Collector) -> None:
    contexts = [TraceContext(f"{number:032x}", SPAN, True) for number in range(1, 1001)]
    with tracing(True, "consumer", 1001):
        tracer = active()
        assert tracer is not None
        with tracer.span("process stockhook.orders", SpanKind.CONSUMER, {}, links=contexts):
            pass

    (batch,) = await collector.wait_for("process stockhook.orders")
    assert batch.links == tuple((context.trace_id, context.span_id) for context in contexts)


async def test_the_span_of_a_call_has_its_status_and_nothing_of_the_path(collector: Collector) -> None:
    async with endpoint(failing_first(1, 503)) as api, httpx.AsyncClient() as client:
        with tracing(True, "consumer", 200):
            for _ in range(2):
                request = client.build_request("GET", f"{api.url}?user_token=secret")
                await fetch(client, request, timedelta(seconds=20))
        failed, done = await collector.wait_for("GET", 2)

    # Marketplaces are strangers to our traces.
    assert not any("traceparent" in request.headers for request in api.requests)
    common = {"http.request.method": "GET", "server.address": "127.0.0.1", "server.port": api.port}
    assert (failed.kind, failed.is_error, done.is_error) == ("CLIENT", True, False)
    assert failed.attributes == {**common, "http.response.status_code": 503, "error.type": "503"}
    assert done.attributes == {**common, "http.response.status_code": 204}
