"""The AsyncAPI document of the broker: exchanges, queues, and the messages between the parts of Stockhook."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from pydantic.json_schema import models_json_schema

from consumers.registry import FAMILIES, FAMILY_OF
from schemas.changes import CONTENT_TYPE
from schemas.event_schema import Payload
from schemas.events import event_models, routing_key
from schemas.registry import SCHEMAS, Provider
from worker.actions.registry import KINDS
from worker.actions.relay import message as action_message
from worker.amqp.codec import JSON
from worker.amqp.desired_topology import expected_topology
from worker.amqp.management import vhost_of
from worker.amqp.queue_set import QueueSet
from worker.amqp.topology import (
    ACTIONS,
    CHANGES,
    DELIVERY_LIMIT,
    EVENTS,
    PROBE,
    QUARANTINE,
    RETURN,
    Binding,
    Exchange,
    Queue,
    Topology,
    webhook_topology,
)
from worker.config.settings import Settings
from worker.config.subscribers import ORIGIN_PREFIX
from worker.marketplaces.registry import MARKETPLACES
from worker.tools.asyncapi.changes import change_headers, cloud_event
from worker.tools.asyncapi.document import (
    BROKER_USER,
    EXCHANGE_ARGUMENTS,
    QUEUE_ARGUMENTS,
    QUEUE_BINDINGS,
    SCHEMA_REF,
    Json,
    amqp_server,
    consuming,
    exchange_binding,
    head,
    message_binding,
    message_refs,
    object_schema,
    publishing,
    queue_binding,
    ref,
    schema_ref,
)
from worker.tools.asyncapi.examples import event_messages, payload_of
from worker.tools.asyncapi.headers import AFTER_FAILURE, action_headers, event_headers, with_attempts

_DESCRIPTION = """\
Everything on the broker, for operators and for those who read or repair a queue. Names and arguments are \
stable. Subscribers need the document of the change feed only.

The ingest publishes each event to `stockhook.events`, from where it goes to the queue of its family. \
After a failed attempt the consumer publishes a copy to `stockhook.return` with the name of a retry queue \
as the routing key; the broker dead-letters it from there to the family's queue when its delay is over. \
After the last attempt, and for what no attempt can help, the copy goes to the family's dead letters. A \
message with a routing key that no queue is bound to goes to the quarantine.

The ingest publishes an event without checking its fields: the body of an authentic one may break its \
schema, and then the consumer makes it a dead letter.

All messages are persistent, published with confirms, and delivered at least once. RabbitMQ adds headers \
of its own (`x-death`, `x-delivery-count`, …); none of them is ever sent on. A header without a value is \
absent.\
"""

# The template of a subscriber's queues, where the settings name no subscriber.
_SUBSCRIBER = "subscriber"


@dataclass(frozen=True, slots=True)
class _Use:
    """What a queue is for: its messages by name, and the operation of who consumes it."""

    title: str
    messages: tuple[str, ...]
    operation: str | None = None
    does: str = ""


def topology_document(settings: Settings) -> Json:
    """The names of retry queues, subscribers and the virtual host depend on the settings."""
    vhost = vhost_of(settings.amqp_url.get_secret_value())
    expected, origins = _with_subscribers(settings)
    uses = _uses(settings, origins)
    channels = {
        f"exchange.{each.name}": _exchange_channel(each, expected.bindings, vhost)
        for each in expected.exchanges
    } | {
        f"queue.{each.name}": _queue_channel(each, uses[each.name], expected.bindings, vhost)
        for each in expected.queues
    }
    return {
        **head("Stockhook on the broker", _DESCRIPTION, JSON),
        "servers": {"broker": amqp_server("RabbitMQ", vhost)},
        "channels": channels,
        "operations": {**_sends(), **_receives(uses)},
        "components": {
            "messages": _messages(),
            "schemas": _schemas(),
            "securitySchemes": {"broker": BROKER_USER},
        },
    }


def _with_subscribers(settings: Settings) -> tuple[Topology, list[str]]:
    """The topology, and the origins of subscribers in it: those of the settings, or a template for one."""
    ours = expected_topology(settings)
    origins = [subscriber.origin for subscriber in settings.subscribers]
    if origins:
        return ours, origins
    template = f"{ORIGIN_PREFIX}{{{_SUBSCRIBER}}}"
    other = webhook_topology(QueueSet.of(template, settings.delays), ())
    return Topology(ours.exchanges, ours.queues + other.queues, ours.bindings + other.bindings), [template]


def _uses(settings: Settings, subscribers: Iterable[str]) -> dict[str, _Use]:
    """By the names of the queues."""
    uses = {
        QUARANTINE: _Use(
            "Quarantine", ("quarantined",), "archive.quarantine", "Archive what no family handles"
        )
    }
    for family in FAMILIES.values():
        main = _Use(
            f"Events: {family.name}",
            family.event_types,
            f"apply.{family.name}",
            f"Apply events: {family.name}",
        )
        uses |= _origin_uses(QueueSet.of(family.name, settings.delays), main, "event", family.name)
    main = _Use("Actions", ("action",), "perform.actions", "Perform actions")
    uses |= _origin_uses(QueueSet.of(ACTIONS, settings.delays), main, "action", ACTIONS)
    for origin in subscribers:
        name = origin.removeprefix(ORIGIN_PREFIX).strip("{}")
        main = _Use(f"Changes for {name}", ("change",), f"post.{name}", f"Post changes to {name}")
        uses |= _origin_uses(QueueSet.of(origin, settings.delays), main, "change", origin.strip("{}"))
    return uses


def _origin_uses(queues: QueueSet, main: _Use, kind: str, origin: str) -> dict[str, _Use]:
    retry = f"{kind}.retry"
    first = _Use(main.title, (*main.messages, retry), main.operation, main.does)
    retries = {each.name: _Use(f"{main.title}, retry after {each.step}", (retry,)) for each in queues.retries}
    dead = _Use(
        f"{main.title}, dead letters",
        (f"{kind}.dead",),
        f"archive.{origin.replace('{', '').replace('}', '')}",
        f"Archive dead letters: {main.title}",
    )
    return {queues.main: first, **retries, queues.dead: dead}


def _exchange_channel(exchange: Exchange, bindings: Iterable[Binding], vhost: str) -> Json:
    title, description, messages = _EXCHANGES[exchange.name]
    if exchange.name == EVENTS:
        keys = [binding.routing_key for binding in bindings if binding.exchange == EVENTS]
        description += f" Routing keys with a queue: {', '.join(f'`{key}`' for key in keys)}."
    return {
        "address": None,
        "title": title,
        "description": description,
        "servers": [ref("servers", "broker")],
        "messages": message_refs(messages),
        "bindings": exchange_binding(exchange, vhost),
        EXCHANGE_ARGUMENTS: dict(exchange.arguments),
    }


def _queue_channel(queue: Queue, use: _Use, bindings: Iterable[Binding], vhost: str) -> Json:
    parameters: Json = {}
    if f"{{{_SUBSCRIBER}}}" in queue.name:
        description = "The name of a subscriber in STOCKHOOK_CHANGES_WEBHOOKS"
        parameters = {"parameters": {_SUBSCRIBER: {"description": description, "examples": ["shop"]}}}
    return {
        "address": queue.name,
        "title": use.title,
        "servers": [ref("servers", "broker")],
        **parameters,
        "messages": message_refs(use.messages),
        "bindings": queue_binding(queue, vhost),
        QUEUE_ARGUMENTS: dict(queue.arguments),
        QUEUE_BINDINGS: [
            {"exchange": binding.exchange, "routingKey": binding.routing_key}
            for binding in bindings
            if binding.queue == queue.name
        ],
    }


_COPIES = (
    "event.retry",
    "event.dead",
    "action",
    "action.retry",
    "action.dead",
    "change.retry",
    "change.dead",
)
_EXCHANGES: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    EVENTS: (
        "Events",
        "The routing key of an event is `<marketplace>.<type>`; what cannot be routed has the routing key "
        "`quarantine.<marketplace>`, which no queue is bound to.",
        (*FAMILY_OF, "quarantined"),
    ),
    RETURN: (
        "Copies",
        "The routing key is the name of a queue. A requeued event is published here too.",
        (*FAMILY_OF, *_COPIES),
    ),
    QUARANTINE: ("To the quarantine", "The alternate exchange of `stockhook.events`.", ("quarantined",)),
    PROBE: (
        "Probe",
        "No queue is bound: publishers publish to it to check whether the broker accepts messages.",
        ("probe",),
    ),
    CHANGES: (
        "Changes",
        "The routing key is the type of the change. The document of the change feed describes it.",
        ("change",),
    ),
}
_SENDERS = (
    ("publish.events", EVENTS, "Publish an event (ingest, reconcile)", True),
    ("publish.copies", RETURN, "Publish a copy, an action, or a replay", True),
    ("publish.quarantined", QUARANTINE, "Publish what is not an action", True),
    ("publish.probe", PROBE, "Check whether the broker accepts messages", True),
    ("publish.changes", CHANGES, "Publish a change", False),
)


def _sends() -> Json:
    return {
        name: {
            "action": "send",
            "channel": ref("channels", f"exchange.{exchange}"),
            "title": title,
            "bindings": publishing(mandatory=mandatory),
        }
        for name, exchange, title, mandatory in _SENDERS
    }


def _receives(uses: Mapping[str, _Use]) -> Json:
    return {
        use.operation: {
            "action": "receive",
            "channel": ref("channels", f"queue.{queue}"),
            "title": use.does,
            "bindings": consuming(),
        }
        for queue, use in uses.items()
        if use.operation is not None
    }


def _messages() -> Json:
    examples: dict[str, list[Json]] = {}
    for message in event_messages():
        example = {"headers": dict(message.headers), "payload": payload_of(message)}
        examples.setdefault(message.type, []).append(example)
    return {
        **{key: _event(key, examples.get(key, [])) for key in FAMILY_OF},
        "event.retry": _other(
            "An event after a failed attempt",
            "FailedEventHeaders",
            "A copy for a retry queue, which is back in the family's queue after the delay. The body is that "
            "of the event.",
        ),
        "event.dead": _other(
            "A dead letter",
            "EventHeaders",
            "An event that failed at its last attempt, or that no attempt can help: its body may break its "
            f"schema. After {DELIVERY_LIMIT} deliveries without an ack the broker dead-letters an event by "
            "itself, and adds no `x-reason`.",
        ),
        "quarantined": _other(
            "What no family handles",
            "QuarantineHeaders",
            "An authentic body that is not JSON, that names no event type, or whose type no family handles; "
            "a message on a queue of Stockhook that Stockhook did not publish. The body may be encrypted.",
        ),
        "action": {
            **_json("A due action", "ActionHeaders", "The request stays in the table `actions`."),
            "payload": schema_ref("Action"),
            "examples": [_action_example()],
        },
        "action.retry": {
            **_json("An action after a failed attempt", "FailedActionHeaders"),
            "payload": schema_ref("Action"),
        },
        "action.dead": {
            **_json("An action that failed for good", "ActionHeaders"),
            "payload": schema_ref("Action"),
        },
        "change": _change("A change", "ChangeHeaders"),
        "change.retry": _change("A change that an endpoint did not accept", "FailedChangeHeaders"),
        "change.dead": _change("A change that no attempt delivered", "ChangeHeaders"),
        "probe": {**_json("A probe", None, "Empty."), "bindings": message_binding("probe")},
    }


def _event(key: str, examples: list[Json]) -> Json:
    return {
        "name": key,
        "title": key,
        "contentType": JSON,
        "headers": schema_ref("EventHeaders"),
        "payload": schema_ref(key),
        "bindings": message_binding(key),
        **({"examples": examples} if examples else {}),
    }


def _json(title: str, headers: str | None, description: str = "") -> Json:
    return {
        "title": title,
        "contentType": JSON,
        **({"description": description} if description else {}),
        **({"headers": schema_ref(headers)} if headers else {}),
    }


def _other(title: str, headers: str, description: str) -> Json:
    return {**_json(title, headers, description), "payload": schema_ref("Body")}


def _change(title: str, headers: str) -> Json:
    return {
        "title": title,
        "contentType": CONTENT_TYPE,
        "headers": schema_ref(headers),
        "payload": schema_ref("Change"),
    }


def _action_example() -> Json:
    action_id = UUID("00000000-0000-4000-8000-000000000002")
    kind = min(KINDS)
    return {
        "headers": dict(action_message(action_id, kind).headers),
        "payload": {"action_id": str(action_id), "kind": kind},
    }


def _schemas() -> Json:
    changes = change_headers()
    return {
        "EventHeaders": event_headers(),
        "FailedEventHeaders": with_attempts(event_headers(), AFTER_FAILURE),
        "QuarantineHeaders": event_headers(()),
        "ActionHeaders": action_headers(),
        "FailedActionHeaders": action_headers(("x-reason",)),
        "ChangeHeaders": with_attempts(changes),
        "FailedChangeHeaders": with_attempts(changes, AFTER_FAILURE),
        "Body": {"description": "The body, byte for byte; any JSON, or none"},
        "Action": object_schema(
            {"action_id": {"type": "string", "format": "uuid"}, "kind": {"enum": sorted(KINDS)}},
            ("action_id", "kind"),
        ),
        "Change": cloud_event(
            {"type": "string", "pattern": r"^stockhook\.[a-z_]+\.[a-z_]+$"}, {"type": "object"}
        ),
        **_event_schemas(),
    }


def _event_schemas() -> Json:
    """The models of all events, and the bodies by routing key."""
    models: list[tuple[type[Payload], Literal["validation"]]] = [
        (model, "validation") for provider in Provider for model in event_models(provider).values()
    ]
    references, definitions = models_json_schema(models, ref_template=SCHEMA_REF)
    bodies = {}
    for provider, event_type, model in _event_types():
        reference: dict[str, Any] = references[model, "validation"]
        is_webhook = model in SCHEMAS[provider].webhooks
        body = MARKETPLACES[provider].body_schema(reference) if is_webhook else reference
        bodies[routing_key(provider, event_type)] = body
    return {**definitions["$defs"], **bodies}


def _event_types() -> Iterator[tuple[Provider, str, type[Payload]]]:
    for provider in Provider:
        for event_type, model in event_models(provider).items():
            yield provider, event_type, model
