"""The headers of an event's message that Stockhook sets."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from schemas.event_schema import EventIds
from schemas.events import OBSERVED_TYPES
from schemas.registry import Provider
from schemas.trace_context import (
    ORIGIN_TRACEPARENT,
    TRACEPARENT,
    TRACESTATE,
    TraceContext,
    Traceparent,
    Tracestate,
    read_traceparent,
    recorded_trace,
)
from schemas.validation import broken_rules


def _in_utc(instant: datetime) -> datetime:
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise ValueError("no year has this instant in UTC") from None


Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]

# As far as Postgres counts; the end of a range of sequence numbers is one more.
LARGEST = 2**63 - 2


LONGEST_EVIDENCE = 512
REQUEST_ID_HEADER = "x-request-id"


def evidence_header(name: str) -> str:
    """The header of ours for what a gateway calls a request: its event, attempt, request, url."""
    return f"x-gateway-{name}"


_EVIDENCE = re.compile(rf"[ -~]{{1,{LONGEST_EVIDENCE}}}")


def _evidence(value: object) -> object:
    """Drop evidence that the ingest would not send, rather than refuse the event."""
    return value if isinstance(value, str) and _EVIDENCE.fullmatch(value) else None


Evidence = Annotated[str | None, BeforeValidator(_evidence)]


class InvalidEnvelope(Exception):
    """A message on one of our queues lacks our headers: it was not published by an ingest."""


# The reason of a message in the quarantine whose event is well-formed, and of a type that no family handles.
UNHANDLED = "unhandled event type"


class Provenance(StrEnum):
    """Where an event came from, recorded by us when we publish it and never read from its body."""

    WEBHOOK = "webhook"
    OBSERVATION = "observation"


class Envelope(BaseModel):
    """The headers of a message on a family queue.

    `attempt` is the number of the attempt that this delivery is, from 1. `source` and
    `sequence_number` are the ingest's count of the event; `voided` names numbers without an event
    (`source:number,…`). What begins with `gateway_`, and `request_id`, is how the gateway and the proxy in
    front of the ingest name the request. `traceparent` and `tracestate` are the context in which the event
    was published, `origin_traceparent` is that of its first publish, in a replay. The broker adds headers of
    its own (`x-death`, `x-delivery-count`), hence `extra="ignore"`; none of them is ever sent on.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", validate_by_name=True)

    event_type: str = Field(alias="x-event-type")
    provider: Provider = Field(alias="x-provider")
    event_id: UUID = Field(alias="x-event-id")
    content_id: UUID = Field(alias="x-content-id")
    received_at: Instant = Field(alias="x-received-at")
    attempt: int = Field(default=1, ge=1, le=LARGEST, alias="x-attempt")
    source: int | None = Field(default=None, ge=0, le=LARGEST, alias="x-stream")
    sequence_number: int | None = Field(default=None, ge=0, le=LARGEST, alias="x-place")
    voided: str | None = Field(default=None, alias="x-unused")
    first_failed_at: Instant | None = Field(default=None, alias="x-first-failed-at")
    last_failed_at: Instant | None = Field(default=None, alias="x-last-failed-at")
    reason: str | None = Field(default=None, alias="x-reason")
    recorded_provenance: Provenance | None = Field(default=None, alias="x-provenance")
    gateway_event: Evidence = Field(default=None, alias="x-gateway-event")
    gateway_attempt: Evidence = Field(default=None, alias="x-gateway-attempt")
    gateway_request: Evidence = Field(default=None, alias="x-gateway-request")
    gateway_url: Evidence = Field(default=None, alias="x-gateway-url")
    request_id: Evidence = Field(default=None, alias="x-request-id")
    traceparent: Traceparent = Field(default=None, alias=TRACEPARENT)
    tracestate: Tracestate = Field(default=None, alias=TRACESTATE)
    origin_traceparent: Traceparent = Field(default=None, alias=ORIGIN_TRACEPARENT)

    @property
    def provenance(self) -> Provenance:
        """Older releases did not record it; their ingest routed no type of an observation to a family."""
        if self.recorded_provenance is not None:
            return self.recorded_provenance
        return Provenance.OBSERVATION if self.event_type in OBSERVED_TYPES else Provenance.WEBHOOK

    @property
    def evidence(self) -> dict[str, str]:
        """How the gateway, the proxy and the traces name the request, by the names that people see."""
        # Most events have none.
        if self.model_fields_set.isdisjoint(_SOURCES_OF_EVIDENCE):
            return {}
        return {name: value for name in EVIDENCE if (value := getattr(self, name)) is not None}

    @property
    def trace_id(self) -> str | None:
        """The trace of the event, if it is recorded."""
        return recorded_trace(self.traceparent)

    @property
    def origin_trace_id(self) -> str | None:
        """Of a replayed event: the trace of its first publish, if that is recorded."""
        return recorded_trace(self.origin_traceparent)

    @property
    def evidence_headers(self) -> dict[str, str]:
        """The same by the names of its headers, without the ids of traces."""
        fields = Envelope.model_fields
        return {fields[name].alias or name: value for name, value in self.evidence.items() if name in fields}

    @property
    def trace_context(self) -> TraceContext | None:
        """The context in which the event was published."""
        if self.traceparent is None:
            return None
        return read_traceparent(self.traceparent, self.tracestate)

    @classmethod
    def from_headers(cls, headers: Mapping[str, object]) -> Self:
        """Read our headers.

        Raises:
            InvalidEnvelope: One is missing or malformed; the text names it.
        """
        try:
            return cls.model_validate(headers)
        except ValidationError as error:
            names = ", ".join(broken.path for broken in broken_rules(error))
            raise InvalidEnvelope(f"headers: {names}") from None

    def to_headers(self) -> dict[str, str | int]:
        """The headers as AMQP carries them: strings and integers."""
        fields = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {name: value for name, value in fields.items() if isinstance(value, str | int)}


def headers_of_new(
    provider: Provider,
    event_type: str,
    ids: EventIds,
    received_at: datetime,
    provenance: Provenance,
    reason: str | None = None,
) -> dict[str, str | int]:
    """The headers of an event that is published for the first time, as `Envelope.to_headers` writes them.

    Nothing in them needs validation.
    """
    headers: dict[str, str | int] = {
        "x-event-type": event_type,
        "x-provider": provider.value,
        "x-event-id": str(ids.event_id),
        "x-content-id": str(ids.content_id),
        "x-received-at": received_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "x-attempt": 1,
    }
    if reason is not None:
        headers["x-reason"] = reason
    headers["x-provenance"] = provenance.value
    return headers


# The fields that are evidence alone: they take part in no decision.
EVIDENCE = (
    "gateway_event",
    "gateway_attempt",
    "gateway_request",
    "gateway_url",
    "request_id",
    "trace_id",
    "origin_trace_id",
)

_SOURCES_OF_EVIDENCE = frozenset((*EVIDENCE, "traceparent", "origin_traceparent"))

# By name: what is copied from a message to the next one.
HEADERS = tuple(field.alias or name for name, field in Envelope.model_fields.items())
