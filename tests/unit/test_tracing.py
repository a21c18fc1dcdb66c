"""Tracing: what it costs while it is off, and what the exporter's queue does while the collector is away."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from threading import Event
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from consumers.registry import FAMILIES
from schemas.trace_context import TraceContext
from tests.unit.test_service import BODY, Stored, answer
from worker.amqp.connection import Broker
from worker.amqp.tap import Delivery
from worker.config.settings import BadSettings, Settings, read_settings
from worker.observability import metrics, tracing
from worker.observability.spans import ExportQueue
from worker.pipeline.consumer import Consumer
from worker.pipeline.decode import InvalidDelivery
from worker.pipeline.turns import Turn

PROCESSES = (
    "worker.cli.ingest",
    "worker.cli.consume",
    "worker.cli.console",
    "worker.cli.dead_letters",
    "worker.console.server",
    "worker.processes.ingest_process",
    "worker.processes.consumer_process",
)


def test_without_tracing_nothing_imports_opentelemetry() -> None:
    code = (
        f"import sys, {', '.join(PROCESSES)}\n"
        "from worker.observability.tracing import tracing\n"
        "with tracing(False, 'ingest', 200): pass\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry', 'google.protobuf'))])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout == "[]\n"


def test_a_missing_extra_is_named() -> None:
    code = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from worker.observability.tracing import tracing\n"
        "with tracing(True, 'ingest', 200): pass\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ended.stderr.endswith(" is missing): install stockhook[otel]\n")


@pytest.mark.parametrize("name", ["OTEL_SPAN_LINK_COUNT_LIMIT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"])
def test_a_variable_that_opentelemetry_cannot_read_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "many")

    with pytest.raises(tracing.BadTraceVariable, match=name), tracing.tracing(True, "ingest", 200):
        pass
    assert tracing.active() is None


def test_an_empty_variable_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "")

    with tracing.tracing(True, "ingest", 200):
        assert tracing.active() is not None


@pytest.mark.parametrize(("switch", "is_traced"), [("TRUE", False), ("false", True)])
def test_the_switch_of_opentelemetry_turns_traces_off(
    switch: str, is_traced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", switch)

    with tracing.tracing(True, "ingest", 200):
        assert (tracing.active() is not None) is is_traced


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[None]]:
    """One entry for each check whether tracing is on."""
    counted: list[None] = []

    def active() -> None:
        counted.append(None)

    monkeypatch.setattr(tracing, "active", active)
    return counted


async def test_without_tracing_a_request_has_one_check(checks: list[None]) -> None:
    stored = Stored()
    response = await answer(BODY, stored)

    assert response.status == 200
    assert len(stored.messages) == 1
    assert len(checks) == 1


class Parts:
    """A database and a publisher that are not used."""

    async def ping(self) -> None:
        raise AssertionError


class Applying(Consumer):
    """Settles nothing: the checks before are counted."""

    async def _apply_early(self, *_: Any) -> None:
        pass

    async def _apply_and_settle(self, *_: Any) -> None:
        pass


async def test_without_tracing_a_batch_has_one_check(checks: list[None]) -> None:
    parts: Any = Parts()
    consumer = Applying(
        FAMILIES["orders"], Settings(), Broker("", ""), parts, parts, parts, asyncio.Event(), asyncio.Lock()
    )
    batch = [InvalidDelivery(Delivery(tag, "", {}, b"", False), "") for tag in range(200)]
    await consumer._process(parts, batch, Turn(None))

    assert len(checks) == 1


class Held(SpanExporter):
    """Hangs until it is released, then fails or not."""

    def __init__(self, result: SpanExportResult = SpanExportResult.SUCCESS) -> None:
        self.result = result
        self.released, self.is_called = Event(), Event()
        self.spans = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.is_called.set()
        self.released.wait(20)
        self.spans += len(spans)
        return self.result


def value(name: str, **labels: str) -> float:
    return (
        metrics.SPANS_EXPORTED._value.get()
        if not labels
        else metrics.SPANS_DROPPED.labels(**labels)._value.get()
    )


def provider_of(
    exporter: SpanExporter, monkeypatch: pytest.MonkeyPatch
) -> tuple[TracerProvider, ExportQueue]:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "50")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")
    queue = ExportQueue(exporter)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(queue)
    return provider, queue


def test_a_hanging_collector_costs_spans_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = Held()
    provider, queue = provider_of(exporter, monkeypatch)
    tracer = provider.get_tracer("test")
    dropped = value("dropped", reason="queue_full")
    exported = value("exported")
    for _ in range(10):
        tracer.start_span("first").end()
    assert exporter.is_called.wait(20)
    for _ in range(200):
        tracer.start_span("next").end()

    assert value("dropped", reason="queue_full") - dropped == 150
    exporter.released.set()
    queue.shutdown()
    assert exporter.spans == 60
    assert value("exported") - exported == 60


def test_the_links_of_waiting_spans_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.observability.spans.MOST_LINKS", 100)
    monkeypatch.setattr("worker.observability.spans.LINKS_TOGETHER", 30)
    exporter = Held()
    monkeypatch.setattr("worker.observability.spans.OTLPSpanExporter", lambda: exporter)
    contexts = [TraceContext("1" * 32, f"{number:016x}", True) for number in range(1, 31)]
    dropped = value("dropped", reason="queue_full")
    with tracing.tracing(True, "consumer", 30):
        tracer = tracing.active()
        assert tracer is not None
        # It is due by its links alone.
        with tracer.span("first", tracing.Kind.INTERNAL, {}, links=contexts):
            pass
        assert exporter.is_called.wait(20)
        for _ in range(5):
            with tracer.span("next", tracing.Kind.INTERNAL, {}, links=contexts):
                pass
        with tracer.span("without", tracing.Kind.INTERNAL, {}):
            pass

        assert value("dropped", reason="queue_full") - dropped == 2
        exporter.released.set()
    assert exporter.spans == 5


def test_spans_that_the_collector_refuses_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = Held(SpanExportResult.FAILURE)
    exporter.released.set()
    provider, queue = provider_of(exporter, monkeypatch)
    failed = value("dropped", reason="export_failed")
    for _ in range(7):
        provider.get_tracer("test").start_span("one").end()
    queue.shutdown()

    assert value("dropped", reason="export_failed") - failed == 7


def test_a_collector_that_hangs_does_not_delay_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.observability.spans.CLOSE_SECONDS", 0.05)
    exporter = Held()
    provider, queue = provider_of(exporter, monkeypatch)
    provider.get_tracer("test").start_span("one").end()
    queue.shutdown()

    assert exporter.spans == 0
    exporter.released.set()


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("https://grafana.example/trace/", "must contain {trace_id}"),
        ("javascript:alert({trace_id})", "must start with https:// or http://"),
        ("https://user:secret@grafana.example/{trace_id}", "must not contain a user"),
    ],
)
def test_the_url_of_traces_is_checked(url: str, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKHOOK_TRACE_URL", url)

    with pytest.raises(BadSettings, match=rule):
        read_settings()


def test_the_url_of_traces_is_a_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKHOOK_TRACE_URL", "https://grafana.example/trace/{trace_id}?orgId=1")

    assert read_settings().trace_url == "https://grafana.example/trace/{trace_id}?orgId=1"
