"""The trace of one webhook: the span of the request, and that of the publish in it."""

from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import time_ns
from uuid import UUID

from schemas.trace_context import read_context
from worker.amqp.channel import Message
from worker.amqp.message_spans import sent, with_headers
from worker.ingest.exchange import Refused, Response
from worker.intake.intake import Accepted
from worker.observability.tracing import Kind, Span, Tracer

STATUS = "http.response.status_code"


@dataclass(slots=True)
class RequestTrace:
    """The span of the request starts, with the earlier time, once its sender is authenticated: strangers must
    not fill the queue of spans.

    `scheme` is that of the connection to the ingest. No attribute has the prefix of the path, which may be
    secret.
    """

    tracer: Tracer
    route: str
    scheme: str
    _began_at: int = field(default_factory=time_ns)
    _span: Span | None = None

    async def answering(
        self, receiving: Awaitable[Response], headers: Mapping[str, str], trusted_context: Mapping[str, str]
    ) -> Response:
        """Await the answer in a span.

        A trusted context is its parent. Any other is only linked: a sender must not choose the ids of our
        traces, nor which of them are recorded.

        Raises:
            Refused
        """
        parent = read_context(trusted_context)
        foreign = None if parent is not None else read_context(headers)
        with self.tracer.span(
            self._name,
            Kind.SERVER,
            self._attributes,
            parent=parent,
            links=[] if foreign is None else [foreign],
            began_at=self._began_at,
        ) as span:
            self._span = span
            refusal = None
            try:
                response = await receiving
            except Refused as error:
                refusal, response = error, error.response
            span.set(STATUS, response.status)
            if response.status >= 500:
                span.fail(str(response.status))
        if refusal is not None:
            raise refusal
        return response

    def note(self, event_id: UUID, result: str) -> None:
        if self._span is not None:
            self._span.set("stockhook.event_id", str(event_id))
            self._span.set("stockhook.result", result)

    def refused(self, status: int) -> None:
        """Record a failure of ours before the span started. A refused stranger leaves no span."""
        if self._span is None and status >= 500:
            attributes = {**self._attributes, STATUS: status}
            with self.tracer.span(self._name, Kind.SERVER, attributes, began_at=self._began_at) as span:
                span.fail(str(status))

    @contextmanager
    def sending(self, message: Message, accepted: Accepted) -> Iterator[Message]:
        """The message with the context of the span in which it is published, or spooled."""
        assert self._span is not None, "an event is stored while its request is answered"
        name, attributes = sent(message, str(accepted.event_id))
        with self.tracer.span(name, Kind.PRODUCER, attributes, parent=self._span.context) as span:
            yield with_headers(message, span.context.headers)

    @property
    def _name(self) -> str:
        return f"POST {self.route}"

    @property
    def _attributes(self) -> dict[str, str | int]:
        return {
            "http.request.method": "POST",
            "http.route": self.route,
            "url.path": self.route,
            "url.scheme": self.scheme,
        }
