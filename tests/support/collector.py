"""A collector of traces: it receives OTLP over HTTP, and decodes the protobuf."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.support.stack import until


@dataclass(frozen=True)
class Exported:
    """A span as the collector received it; ids in hexadecimal."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[tuple[str, str], ...]
    attributes: Mapping[str, object]
    is_error: bool
    status_message: str
    began_at: int
    ended_at: int

    @property
    def ids(self) -> tuple[str, str]:
        return self.trace_id, self.span_id


@dataclass
class Collector:
    url: str = ""
    spans: list[Exported] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to export to it soon."""
        return {
            "STOCKHOOK_TRACING": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def named(self, name: str, **attributes: object) -> list[Exported]:
        """The spans with a name and these attributes, in the order of their start; `_` stands for a dot."""
        wanted = {name.replace("__", "."): value for name, value in attributes.items()}
        matching = [
            span for span in self.spans if span.name == name and wanted.items() <= span.attributes.items()
        ]
        return sorted(matching, key=lambda span: span.began_at)

    async def wait_for(
        self, name: str, number: int = 1, seconds: float = 20, **attributes: object
    ) -> list[Exported]:
        async def are_there() -> list[Exported] | None:
            matching = self.named(name, **attributes)
            return matching if len(matching) >= number else None

        return list(
            await until(are_there, f"{number} spans {name} {attributes}, of {self.summary()}", seconds)
        )

    def summary(self) -> list[str]:
        return [span.name for span in self.spans]

    def take(self, body: bytes) -> None:
        self.bodies.append(body)
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            service = {each.key: _value(each.value) for each in resource.resource.attributes}["service.name"]
            for scope in resource.scope_spans:
                self.spans += [_exported(str(service), span) for span in scope.spans]


def _exported(service: str, span: trace_pb2.Span) -> Exported:
    return Exported(
        service=service,
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        links=tuple((each.trace_id.hex(), each.span_id.hex()) for each in span.links),
        attributes={each.key: _value(each.value) for each in span.attributes},
        is_error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        status_message=span.status.message,
        began_at=span.start_time_unix_nano,
        ended_at=span.end_time_unix_nano,
    )


def _value(value: AnyValue) -> object:
    return getattr(value, str(value.WhichOneof("value")))


@asynccontextmanager
async def hanging() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """The URL of a collector that accepts connections and never answers, and whether it got a request."""
    was_called, is_over = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        was_called.set()
        await is_over.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", was_called
    finally:
        is_over.set()
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector on a free port."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            assert self.headers["content-type"] == "application/x-protobuf"
            collector.take(body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield collector
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()
