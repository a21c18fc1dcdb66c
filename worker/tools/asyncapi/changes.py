"""The AsyncAPI document of the change feed: what subscribers receive."""

import json
from collections.abc import Mapping
from typing import Any

from schemas.changes import CONTENT_TYPE, PREFIX, SOURCE, TYPES, Published, State
from schemas.trace_context import TRACEPARENT
from worker.amqp.management import vhost_of
from worker.amqp.topology import CHANGES, Exchange, topology
from worker.change_feed.endpoint import signed_headers
from worker.change_feed.relay import message
from worker.config.settings import Settings
from worker.config.signing_keys import SigningKey
from worker.tools.asyncapi.document import (
    BROKER_USER,
    HTTP_BINDING,
    Json,
    amqp_server,
    exchange_binding,
    head,
    message_binding,
    message_refs,
    object_schema,
    publishing,
    ref,
    schema_ref,
)
from worker.tools.asyncapi.examples import RECEIVED_AT, change_examples
from worker.tools.asyncapi.headers import TRACE_CONTEXT
from worker.tools.asyncapi.state_schemas import state_schemas

# The secret of the signatures in the examples.
EXAMPLE_SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

GUARANTEES = """\
- **At least once.** After a crash a change may be delivered again, with the same `id`.
- **In order per entity.** A change is published once the one before it is confirmed. Its `before` is the \
`after` of the change before it. Over HTTP, an endpoint receives one change of an entity at a time; a \
change that is retried can arrive after later ones. So before you store a state, compare `sequence`: \
ignore a change whose `sequence` is not greater than the last one of the same kind (the second word of \
`type`) and `subject`. A reminder or a communication replaces no earlier one: a repeated one has the same \
`id`.
- **Only changes.** Repeated events, and events older than the state, publish nothing.
- **No customer data.** No type has names, addresses, telephone numbers, email addresses or bank details.\
"""

_DESCRIPTION = f"""\
Each change of an entity (each kind has a channel), and each message to a customer that becomes due, is \
published as a CloudEvent 1.0 (JSON, structured mode).

{GUARANTEES}

New members, new types and new extensions of CloudEvents may be added: ignore what you do not know.\
"""

_OVER_HTTP = """\
An answer other than 2xx within 10 s is a failure: the change is sent again after each retry delay \
(`STOCKHOOK_RETRY_DELAYS`), then it becomes a dead letter. 410 makes it one immediately. Redirects are not \
followed. The `webhook-id` is the same for each attempt.\
"""

_SIGNATURE = """\
Standard Webhooks: for each secret of the endpoint, divided by blanks, `v1,` or `v1a,` and the base64 of \
HMAC-SHA256 or ed25519 over `ID.TIMESTAMP.BODY`, with `webhook-id`, `webhook-timestamp` and the bytes of \
the body. Verify it before you use the body, refuse timestamps that are too old, and accept a change if \
one of its signatures is valid.\
"""

CHANGE_ID = r"^[0-9a-f-]{36}\.[0-9]+$"


def changes_document(settings: Settings) -> Json:
    """Only the virtual host depends on the settings."""
    vhost = vhost_of(settings.amqp_url.get_secret_value())
    exchange = next(each for each in topology(settings.delays).exchanges if each.name == CHANGES)
    kinds = {types[0].partition(".")[0]: (state, types) for state, types in TYPES.items()}
    return {
        **head("Stockhook change feed", _DESCRIPTION, CONTENT_TYPE),
        "servers": {
            "broker": amqp_server("RabbitMQ: bind your own queue to the types that you want", vhost),
            "endpoint": {
                "host": "{endpoint}",
                "protocol": "https",
                "description": "A subscriber's endpoint, as STOCKHOOK_CHANGES_WEBHOOKS names it",
                "variables": {"endpoint": {"default": "shop.example"}},
                "security": [ref("components", "securitySchemes", "standardWebhooks")],
            },
        },
        "channels": {
            **{kind: _channel(kind, types, exchange, vhost) for kind, (_, types) in kinds.items()},
            "webhook": {
                "address": None,
                "title": "Webhooks",
                "description": "The URL of the subscriber.",
                "servers": [ref("servers", "endpoint")],
                "messages": message_refs(f"{name}.webhook" for _, types in kinds.values() for name in types),
            },
        },
        "operations": {
            **{
                f"publish.{kind}": {
                    "action": "send",
                    "channel": ref("channels", kind),
                    "title": f"Publish changes: {kind}",
                    "bindings": publishing(mandatory=False),
                }
                for kind in kinds
            },
            "post": {
                "action": "send",
                "channel": ref("channels", "webhook"),
                "title": "Post changes to an endpoint",
                "description": _OVER_HTTP,
                "security": [ref("components", "securitySchemes", "standardWebhooks")],
                "bindings": {"http": {"method": "POST", **HTTP_BINDING}},
            },
        },
        "components": {
            "messages": _messages(),
            "schemas": _schemas(),
            "securitySchemes": {
                "broker": BROKER_USER,
                "standardWebhooks": {
                    "type": "httpApiKey",
                    "in": "header",
                    "name": "webhook-signature",
                    "description": _SIGNATURE,
                },
            },
        },
    }


def _channel(kind: str, types: tuple[str, ...], exchange: Exchange, vhost: str) -> Json:
    suffixes = [name.partition(".")[2] for name in types]
    return {
        "address": f"{PREFIX}{kind}.{{change}}",
        "title": f"Changes: {kind}",
        "description": "The address is the routing key, which is the `type` of the event.",
        "servers": [ref("servers", "broker")],
        "parameters": {"change": {"description": "What happened", "enum": suffixes}},
        "messages": message_refs(types),
        "bindings": exchange_binding(exchange, vhost),
    }


def _messages() -> Json:
    examples = change_examples()
    over_amqp = {name: _over_amqp(name, example) for name, example in examples.items()}
    over_http = {f"{name}.webhook": _over_http(name, example) for name, example in examples.items()}
    return over_amqp | over_http


def _over_amqp(name: str, example: Published) -> Json:
    published = message(example)
    return {
        "name": PREFIX + name,
        "title": PREFIX + name,
        "contentType": CONTENT_TYPE,
        "headers": schema_ref("ChangeHeaders"),
        "payload": schema_ref(name),
        "bindings": message_binding(published.type),
        "examples": [{"headers": dict(published.headers), "payload": json.loads(example.body)}],
    }


def _over_http(name: str, example: Published) -> Json:
    keys = [SigningKey.read(EXAMPLE_SECRET)]
    return {
        "name": PREFIX + name,
        "title": f"{PREFIX}{name}, over HTTP",
        "contentType": CONTENT_TYPE,
        "headers": schema_ref("WebhookHeaders"),
        "payload": schema_ref(name),
        "bindings": {"http": HTTP_BINDING},
        "examples": [
            {
                "summary": f"Signed with {EXAMPLE_SECRET}; the body is compact JSON, with the members in "
                "this order",
                "headers": signed_headers(keys, example.change_id, RECEIVED_AT, example.body),
                "payload": json.loads(example.body),
            }
        ],
    }


def _schemas() -> Json:
    schemas: Json = {
        "ChangeHeaders": change_headers(),
        "WebhookHeaders": object_schema({**_WEBHOOK_HEADERS, **TRACE_CONTEXT}, _WEBHOOK_HEADERS),
    }
    for state, types in TYPES.items():
        schemas |= state_schemas(state)
        for name in types:
            schemas[name] = _cloud_event(name, state)
    return schemas


def change_headers() -> Json:
    """The headers of a change over AMQP."""
    properties = {
        "x-change-id": {"type": "string", "pattern": CHANGE_ID, "description": "The `id` of the event"},
        "x-subject": {"type": "string", "description": "The `subject` of the event"},
    }
    return object_schema({**properties, **_TRACEPARENT}, properties)


_TRACEPARENT = {TRACEPARENT: TRACE_CONTEXT[TRACEPARENT]}
_CAUSE = {
    TRACEPARENT: {
        **TRACE_CONTEXT[TRACEPARENT],
        "description": "The trace of the event that caused the change (W3C Trace Context), if it is "
        "recorded; the same each time the change is delivered, other than the header",
    }
}


_WEBHOOK_HEADERS: Mapping[str, Json] = {
    "webhook-id": {
        "type": "string",
        "pattern": CHANGE_ID,
        "description": "The `id` of the change, the same for each attempt",
    },
    "webhook-timestamp": {
        "type": "string",
        "pattern": "^[0-9]+$",
        "description": "Seconds since 1970, of this attempt",
    },
    "webhook-signature": {
        "type": "string",
        "pattern": "^v1a?,[A-Za-z0-9+/=]+( v1a?,[A-Za-z0-9+/=]+)*$",
        "description": "See the security scheme",
    },
}


def cloud_event(event_type: Json, data: Json) -> Json:
    """The schema of an event with these schemas of its type and data."""
    properties: dict[str, Any] = {
        "specversion": {"const": "1.0"},
        "id": {
            "type": "string",
            "pattern": CHANGE_ID,
            "description": "A change that is delivered twice has the same id",
        },
        "source": {"const": SOURCE},
        "type": event_type,
        "subject": {"type": "string", "description": "Id of the entity at the marketplace"},
        "time": {
            "type": "string",
            "format": "date-time",
            "description": "When it happened, by the marketplace's clock",
        },
        "datacontenttype": {"const": "application/json"},
        "sequence": {
            "type": "string",
            "pattern": r"^[0-9]{19}\.[0-9]{4,}$",
            "description": "Compared as text, later changes of one entity have greater values",
        },
        "data": data,
    }
    return object_schema({**properties, **_CAUSE}, properties)


def _cloud_event(name: str, state: type[State]) -> Json:
    after = schema_ref(state.__name__)
    data: dict[str, Any] = {
        "event_id": {
            "type": "string",
            "format": "uuid",
            "description": "The event that caused it: a webhook or an observation",
        },
        "before": {
            "oneOf": [after, {"type": "null"}],
            "description": "Null for an entity that was not known",
        },
        "after": after,
    }
    return cloud_event({"const": PREFIX + name}, object_schema(data, data))
