"""The spans of a batch, and of its events that failed or were retried."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from schemas.trace_context import TraceContext, is_recorded, read_context, read_origin
from worker.amqp.channel import Message
from worker.amqp.message_spans import came_over, processed
from worker.observability.tracing import Kind, Span, Tracer, began_at
from worker.pipeline.decode import Decoded, Item, Received, attempt_of, event_id_of
from worker.pipeline.outcome import Failed, Invalid, Outcome


@dataclass(frozen=True, slots=True)
class BatchTrace:
    """`span` is that of the batch or, in a batch of one, that of the event."""

    tracer: Tracer
    queue: str
    span: Span
    is_single: bool

    def applying(self, events: int) -> AbstractContextManager[Span]:
        """The span of a transaction, with its repetitions after conflicts."""
        attributes: dict[str, str | int] = {"db.system.name": "postgresql", "stockhook.events": events}
        name = f"apply {self.queue}"
        return self.tracer.span(name, Kind.INTERNAL, attributes, parent=self.span.context)

    def settled(
        self, item: Item, outcome: Outcome, copy: Message | None, began: float
    ) -> TraceContext | None:
        """Record how an event ended that was handled alone, or is handled again; its context, or None.

        Its parent is the context in which it was published, so that one trace has all its attempts.
        """
        error_type = _error_type(outcome)
        attempt = attempt_of(item)
        if self.is_single:
            for name, value in _result(attempt, copy).items():
                self.span.set(name, value)
            if error_type is not None:
                self.span.fail(error_type)
            return self.span.context
        if error_type is None and attempt == 1:
            return None
        name, attributes = _of_event(self.queue, item)
        with self.tracer.span(
            name,
            Kind.CONSUMER,
            {**attributes, **_result(attempt, copy)},
            parent=_context(item),
            links=[self.span.context, *_origin(item)],
            began_at=began_at(began),
        ) as span:
            if error_type is not None:
                span.fail(error_type)
            return span.context


@contextmanager
def batch_trace(tracer: Tracer, queue: str, batch: Sequence[Received]) -> Iterator[BatchTrace]:
    """A span for a batch, linked to its events that are recorded; one event has it as a part of its trace."""
    is_single = len(batch) == 1
    if is_single:
        name, attributes = _of_event(queue, batch[0])
        parent, links = _context(batch[0]), _origin(batch[0])
    else:
        name, attributes = processed(queue, queue)
        attributes["messaging.batch.message_count"] = len(batch)
        parent, links = None, _links(batch)
    with tracer.span(name, Kind.CONSUMER, attributes, parent=parent, links=links) as span:
        yield BatchTrace(tracer, queue, span, is_single)


def _links(batch: Sequence[Received]) -> list[TraceContext]:
    """To the recorded events. If none is, to one that is not, so that the batch is not recorded either."""
    unrecorded = None
    links = []
    for item in batch:
        if isinstance(item, Decoded):
            traceparent = item.candidate.envelope.traceparent
            if traceparent is None:
                continue
            if not is_recorded(traceparent):
                unrecorded = item
                continue
        context = _context(item)
        if context is not None and context.is_sampled:
            links.append(context)
    if not links and unrecorded is not None and (context := _context(unrecorded)) is not None:
        links.append(context)
    return links


def _of_event(queue: str, item: Received) -> tuple[str, dict[str, str | int]]:
    headers = item.delivery.headers
    attempt = headers.get("x-attempt", 1)
    routing_key = None
    if isinstance(item, Decoded):
        envelope = item.candidate.envelope
        routing_key = f"{envelope.provider}.{envelope.event_type}"
    is_returned = attempt != 1 or read_origin(headers) is not None
    name, attributes = processed(queue, came_over(queue, routing_key, returned=is_returned))
    attributes["messaging.message.id"] = str(event_id_of(item.delivery))
    attributes["messaging.message.body.size"] = len(item.delivery.body)
    return name, attributes


def _result(attempt: int, copy: Message | None) -> dict[str, str | int]:
    result: dict[str, str | int] = {"stockhook.attempt": attempt}
    if copy is not None:
        result["stockhook.next_queue"] = copy.routing_key
    return result


def _error_type(outcome: Outcome) -> str | None:
    match outcome:
        case Failed(error):
            return type(error).__name__
        case Invalid():
            return "invalid"
        case _:
            return None


def _context(item: Received) -> TraceContext | None:
    if isinstance(item, Decoded):
        return item.candidate.envelope.trace_context
    return read_context(item.delivery.headers)


def _origin(item: Received) -> list[TraceContext]:
    origin = read_origin(item.delivery.headers)
    return [] if origin is None else [origin]
