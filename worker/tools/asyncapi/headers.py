"""The headers of messages between the parts of Stockhook, as schemas."""

from collections.abc import Iterable, Mapping
from typing import Any

from schemas.envelope import Envelope
from schemas.trace_context import ORIGIN_TRACEPARENT, TRACEPARENT, TRACESTATE
from worker.tools.asyncapi.document import Json, object_schema

# Of every event, in the order of the envelope.
ALWAYS = ("x-event-type", "x-provider", "x-event-id", "x-content-id", "x-received-at", "x-attempt")
# Of every copy after a failure.
AFTER_FAILURE = ("x-attempt", "x-reason", "x-first-failed-at", "x-last-failed-at")

_PROXY = "How the gateway or the proxy in front of the ingest names it; unsigned"
_TRACE: Mapping[str, str] = {
    TRACEPARENT: "The trace in which it was published (W3C Trace Context), if it has one",
    TRACESTATE: "What systems before ours added to the trace",
}
DESCRIPTIONS: Mapping[str, str] = {
    "x-event-type": "Type of the event, as the marketplace spells it",
    "x-provider": "The marketplace",
    "x-event-id": "Id of the event",
    "x-content-id": "UUIDv5 of the content, so that a reused event id is recognized",
    "x-received-at": "When the ingest received this copy",
    "x-attempt": "Number of the attempt, from 1",
    "x-stream": "Source of the sequence number that the ingest assigned",
    "x-place": "The sequence number",
    "x-unused": "Numbers that the ingest left unused (`source:number,…`)",
    "x-first-failed-at": "When it failed for the first time",
    "x-last-failed-at": "When it failed for the last time",
    "x-reason": "Why it failed; never a value from the body",
    "x-provenance": "Where the event came from",
    "x-gateway-event": _PROXY,
    "x-gateway-attempt": _PROXY,
    "x-gateway-request": _PROXY,
    "x-gateway-url": _PROXY,
    "x-request-id": _PROXY,
    **_TRACE,
    ORIGIN_TRACEPARENT: "Of a replayed event: the context of its first publish",
}

TRACE_CONTEXT: Mapping[str, Json] = {
    TRACEPARENT: {
        "type": "string",
        "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}",
        "description": _TRACE[TRACEPARENT],
    },
    TRACESTATE: {"type": "string", "description": _TRACE[TRACESTATE]},
}


def event_headers(required: Iterable[str] = ALWAYS) -> Json:
    """The envelope of an event. A header without a value is absent."""
    schema = Envelope.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    properties = {
        name: {**_bare(member, definitions), "description": DESCRIPTIONS[name]}
        for name, member in schema["properties"].items()
    }
    return object_schema(properties, required)


def action_headers(required: Iterable[str] = ()) -> Json:
    """The headers of an action, and of its copies after a failure."""
    envelope = event_headers()["properties"]
    properties = {
        "x-action-id": {"type": "string", "format": "uuid", "description": "Row of the table `actions`"},
        **{name: envelope[name] for name in ("x-attempt", "x-reason")},
        **TRACE_CONTEXT,
    }
    return object_schema(properties, ("x-action-id", "x-attempt", *required))


def with_attempts(schema: Json, required: Iterable[str] = ()) -> Json:
    """These headers on a queue that has retries: a copy after a failure says why it was made."""
    envelope = event_headers()["properties"]
    properties = {**schema["properties"], **{name: envelope[name] for name in AFTER_FAILURE}}
    return object_schema(properties, (*schema["required"], *required))


def _bare(member: Mapping[str, Any], definitions: Mapping[str, Any]) -> Json:
    """A property without its title and default, and without null."""
    kinds = [kind for kind in member.get("anyOf", ()) if kind != {"type": "null"}]
    schema = dict(kinds[0] if kinds else member)
    if "$ref" in schema:
        schema = dict(definitions[schema["$ref"].rpartition("/")[2]])
    return {name: value for name, value in schema.items() if name not in ("title", "default", "description")}
