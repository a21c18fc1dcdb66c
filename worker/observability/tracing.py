"""Traces, as the rest of the code sees them. OpenTelemetry is imported only with STOCKHOOK_TRACING.

A hot path calls `active` once per batch or request; without tracing that is all it does.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from enum import Enum
from time import monotonic, time_ns
from typing import Protocol

from schemas.trace_context import TraceContext
from worker.observability.errors import StockhookError
from worker.observability.exit_codes import MISCONFIGURED

Attributes = Mapping[str, str | int | bool]


class Kind(Enum):
    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    PRODUCER = "producer"
    CONSUMER = "consumer"


class Span(Protocol):
    """A span that has started."""

    @property
    def context(self) -> TraceContext: ...

    def set(self, name: str, value: str | int | bool) -> None: ...

    def fail(self, error_type: str) -> None:
        """Set the status to error. `error_type` is the name of a class or a status, never a message."""


class Tracer(Protocol):
    def span(
        self,
        name: str,
        kind: Kind,
        attributes: Attributes,
        *,
        parent: TraceContext | None = None,
        links: Sequence[TraceContext] = (),
        began_at: int | None = None,
    ) -> AbstractContextManager[Span]:
        """A span that is current in the context. An exception that leaves it makes it fail.

        Without a parent it begins a trace. If it has links, it is recorded when one of them is; otherwise
        the sampler of OTEL_TRACES_SAMPLER decides. `began_at`, in nanoseconds of the epoch, is
        when the work began, if that was before this call.
        """
        ...

    def close(self) -> None:
        """Export what is left, for a few seconds at most."""


class ExtraMissing(StockhookError):
    """The packages of OpenTelemetry are not installed."""

    exit_code = MISCONFIGURED


class BadTraceVariable(StockhookError):
    """OpenTelemetry cannot read one of its variables."""

    exit_code = MISCONFIGURED


_tracer: Tracer | None = None
_current: ContextVar[Span | None] = ContextVar("current span", default=None)


def is_switched_off(environment: Mapping[str, str]) -> bool:
    """By OpenTelemetry's own switch. With it, the SDK makes spans without ids."""
    return environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def active() -> Tracer | None:
    """The tracer of this process; None without tracing."""
    return _tracer


def current() -> Span | None:
    """The span that this task works in; None outside of any."""
    return _current.get()


def note(name: str, value: str | int | bool) -> None:
    """Set an attribute of the current span, if there is one."""
    if (span := _current.get()) is not None:
        span.set(name, value)


@contextmanager
def made_current(span: Span) -> Iterator[None]:
    token = _current.set(span)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def tracing(is_on: bool, process: str, most_links: int) -> Iterator[None]:
    """Trace this process while the context lasts.

    Raises:
        ExtraMissing
        BadTraceVariable
    """
    global _tracer
    if not is_on or is_switched_off(os.environ):
        yield
        return
    try:
        from worker.observability.spans import OpenTelemetryTracer
    except ModuleNotFoundError as error:
        raise ExtraMissing(
            f"STOCKHOOK_TRACING needs more packages ({error.name} is missing): install stockhook[otel]"
        ) from None
    try:
        tracer = _tracer = OpenTelemetryTracer(process, most_links)
    except ValueError as error:
        raise BadTraceVariable(f"OpenTelemetry cannot start: {error}") from None
    try:
        yield
    finally:
        _tracer = None
        tracer.close()


def exemplar_of(context: TraceContext) -> dict[str, str] | None:
    """The labels of an exemplar in a histogram; None for a trace that is not recorded."""
    return context.ids if context.is_sampled else None


def began_at(began: float) -> int:
    """The time of a value of `monotonic`, in nanoseconds of the epoch."""
    return time_ns() - int((monotonic() - began) * 1e9)
