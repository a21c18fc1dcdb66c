"""Spans of OpenTelemetry. Imported only with STOCKHOOK_TRACING; configured by the variables OTEL_*."""

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from threading import Event, Lock, Thread
from time import time_ns

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import Attributes as SpanAttributes

from schemas.trace_context import TraceContext
from worker.observability import metrics
from worker.observability.errors import safe_summary
from worker.observability.tracing import Attributes, Kind, exemplar_of, made_current

log = structlog.get_logger(__name__)

# The SDK drops links beyond its limit, 128 by default.
LINKS_VARIABLE = "OTEL_SPAN_LINK_COUNT_LIMIT"

# At the end of the process. A collector that is away must not delay it.
CLOSE_SECONDS = 2.0

# A link takes about 700 bytes while it waits, and a batch has one for each event. So all together take 35 MB,
# and those of one export about 1 MB of its request.
MOST_LINKS = 50_000
LINKS_TOGETHER = 10_000

# Their names are `{operation} {destination}`.
_HISTOGRAMS = {Kind.PRODUCER: metrics.SEND_SECONDS, Kind.CONSUMER: metrics.PROCESS_SECONDS}

_KINDS = {kind: SpanKind[kind.name] for kind in Kind}


class OpenTelemetryTracer:
    """The tracer of one process."""

    def __init__(self, process: str, most_links: int) -> None:
        # Their texts quote URLs; what matters of them is logged and counted here.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        # Without a number of ours, the SDK reads the variable.
        limits = SpanLimits(max_links=None if os.environ.get(LINKS_VARIABLE) else most_links)
        provider = TracerProvider(resource=_resource(process), span_limits=limits, shutdown_on_exit=False)
        provider.sampler = FollowsLinks(provider.sampler)
        self._queue = ExportQueue(OTLPSpanExporter())
        provider.add_span_processor(self._queue)
        self._tracer = provider.get_tracer("stockhook", version("stockhook"))

    @contextmanager
    def span(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes,
        *,
        parent: TraceContext | None = None,
        links: Sequence[TraceContext] = (),
        began_at: int | None = None,
    ) -> Iterator["OpenTelemetrySpan"]:
        context = Context()
        if parent is not None:
            context = trace.set_span_in_context(NonRecordingSpan(_span_context(parent)), context)
        started = self._tracer.start_span(
            name, context, _KINDS[kind], attributes, [Link(_span_context(link)) for link in links], began_at
        )
        span = OpenTelemetrySpan(started, name, kind, began_at)
        try:
            with made_current(span), structlog.contextvars.bound_contextvars(**span.context.ids):
                yield span
        except BaseException as error:
            span.fail(type(error).__name__)
            raise
        finally:
            span.end()

    def close(self) -> None:
        self._queue.shutdown()


class OpenTelemetrySpan:
    def __init__(self, span: trace.Span, name: str, kind: Kind, began_at: int | None) -> None:
        self._span = span
        self._name = name
        self._histogram = _HISTOGRAMS.get(kind)
        self._began_at = began_at or time_ns()
        self._error_type = ""
        context = span.get_span_context()
        self.context = TraceContext(
            f"{context.trace_id:032x}",
            f"{context.span_id:016x}",
            context.trace_flags.sampled,
            context.trace_state.to_header(),
        )

    def set(self, name: str, value: str | int | bool) -> None:
        self._span.set_attribute(name, value)

    def fail(self, error_type: str) -> None:
        self._error_type = error_type
        self._span.set_attribute("error.type", error_type)
        # Without a description: an exception's text may quote a body.
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        ended_at = time_ns()
        self._span.end(ended_at)
        if self._histogram is not None:
            operation, _, destination = self._name.partition(" ")
            seconds = max(0, ended_at - self._began_at) / 1e9
            self._histogram.labels("rabbitmq", operation, destination, self._error_type).observe(
                seconds, exemplar_of(self.context)
            )


class FollowsLinks(Sampler):
    """Records a span without a parent if a span that it is linked to is recorded.

    Otherwise a recorded event would rarely be in a recorded batch. It does not apply to requests: their
    senders must not decide what is recorded.
    """

    def __init__(self, otherwise: Sampler) -> None:
        self._otherwise = otherwise

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: SpanAttributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        has_parent = trace.get_current_span(parent_context).get_span_context().is_valid
        if links and not has_parent and kind is not SpanKind.SERVER:
            is_sampled = any(link.context.trace_flags.sampled for link in links)
            return SamplingResult(Decision.RECORD_AND_SAMPLE if is_sampled else Decision.DROP, attributes)
        return self._otherwise.should_sample(
            parent_context, trace_id, name, kind, attributes, links, trace_state
        )

    def get_description(self) -> str:
        return f"FollowsLinks({self._otherwise.get_description()})"


class ExportQueue(SpanProcessor):
    """Exports spans in a thread, over a bounded queue. Spans that find it full are dropped and counted.

    The SDK's own processor does not limit the links that wait, does not count in a metric of ours, and does
    not end within a given time.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._limit = _number("OTEL_BSP_MAX_QUEUE_SIZE", 2048)
        self._together = min(self._limit, _number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512))
        self._pause_seconds = _number("OTEL_BSP_SCHEDULE_DELAY", 5000) / 1000
        self._spans: deque[ReadableSpan] = deque()
        self._links = 0
        self._lock = Lock()
        self._is_due = Event()
        self._is_closed = False
        self._is_failing = False
        for reason in ("queue_full", "export_failed"):
            metrics.SPANS_DROPPED.labels(reason)
        self._thread = Thread(target=self._work, name="spans", daemon=True)
        self._thread.start()

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        pass

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        links = len(span.links)
        with self._lock:
            has_room = len(self._spans) < self._limit and self._links + links <= MOST_LINKS
            if has_room and not self._is_closed:
                self._spans.append(span)
                self._links += links
                if len(self._spans) >= self._together or self._links >= LINKS_TOGETHER:
                    self._is_due.set()
                return
        metrics.SPANS_DROPPED.labels("queue_full").inc()

    def shutdown(self) -> None:
        self._is_closed = True
        self._is_due.set()
        self._thread.join(CLOSE_SECONDS)
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True

    def _work(self) -> None:
        while not self._is_closed:
            self._is_due.wait(self._pause_seconds)
            self._is_due.clear()
            self._export_all()
        self._export_all()

    def _export_all(self) -> None:
        while spans := self._take():
            self._export(spans)

    def _take(self) -> list[ReadableSpan]:
        taken: list[ReadableSpan] = []
        links = 0
        with self._lock:
            while self._spans and len(taken) < self._together and links < LINKS_TOGETHER:
                taken.append(self._spans.popleft())
                links += len(taken[-1].links)
            self._links -= links
        return taken

    def _export(self, spans: Sequence[ReadableSpan]) -> None:
        try:
            is_done = self._exporter.export(spans) is SpanExportResult.SUCCESS
            reason = "the collector did not accept them: check OTEL_EXPORTER_OTLP_ENDPOINT"
        except Exception as error:
            is_done, reason = False, safe_summary(error)
        if is_done:
            metrics.SPANS_EXPORTED.inc(len(spans))
        else:
            metrics.SPANS_DROPPED.labels("export_failed").inc(len(spans))
            if not self._is_failing:
                log.warning("spans.dropped", spans=len(spans), reason=reason)
        self._is_failing = not is_done


def _span_context(context: TraceContext) -> SpanContext:
    return SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if context.is_sampled else TraceFlags.DEFAULT),
        trace_state=TraceState.from_header([context.tracestate]) if context.tracestate else None,
    )


def _resource(process: str) -> Resource:
    ours = Resource({SERVICE_NAME: f"stockhook-{process}", SERVICE_VERSION: version("stockhook")})
    return Resource.create().merge(ours).merge(OTELResourceDetector().detect())


def _number(variable: str, default: int) -> int:
    """The SDK also ignores what is not a positive number."""
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() and int(text) > 0 else default
