"""What both documents have in common.

A schema in a document is JSON Schema draft 7, which is the default of AsyncAPI.
"""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from worker.amqp.topology import Exchange, Queue

Json = dict[str, Any]

# The AMQP binding has no place for arguments and for bindings of queues: they are extensions of a channel.
QUEUE_ARGUMENTS = "x-queue-arguments"
EXCHANGE_ARGUMENTS = "x-exchange-arguments"
QUEUE_BINDINGS = "x-queue-bindings"

_AMQP_BINDING = {"bindingVersion": "0.3.0"}
HTTP_BINDING = {"bindingVersion": "0.3.0"}
PERSISTENT = 2

SCHEMA_REF = "#/components/schemas/{model}"


def head(title: str, description: str, content_type: str) -> Json:
    """What a document begins with."""
    return {
        "asyncapi": "3.1.0",
        "info": {
            "title": title,
            "version": version("stockhook"),
            "description": description,
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": content_type,
    }


def ref(*steps: str) -> Json:
    """A reference to another place in the document."""
    escaped = (step.replace("~", "~0").replace("/", "~1") for step in steps)
    return {"$ref": "/".join(("#", *escaped))}


def schema_ref(name: str) -> Json:
    return ref("components", "schemas", name)


def message_refs(names: Iterable[str]) -> Json:
    """The messages of a channel, under their names in the components."""
    return {name: ref("components", "messages", name) for name in names}


def amqp_server(description: str, vhost: str) -> Json:
    return {
        "host": "{host}:{port}",
        "pathname": "/{vhost}",
        "protocol": "amqp",
        "protocolVersion": "0-9-1",
        "description": description,
        "variables": {
            "host": {"default": "localhost"},
            "port": {"default": "5672"},
            "vhost": {"default": quote(vhost, safe="")},
        },
        "security": [ref("components", "securitySchemes", "broker")],
    }


BROKER_USER = {"type": "userPassword", "description": "A user of the broker (`stockhook grants rabbitmq`)"}


def exchange_binding(exchange: Exchange, vhost: str) -> Json:
    properties = {"name": exchange.name, "type": exchange.type, "durable": True, "autoDelete": False}
    return {"amqp": {"is": "routingKey", "exchange": {**properties, "vhost": vhost}, **_AMQP_BINDING}}


def queue_binding(queue: Queue, vhost: str) -> Json:
    properties = {"name": queue.name, "durable": True, "exclusive": False, "autoDelete": False}
    return {"amqp": {"is": "queue", "queue": {**properties, "vhost": vhost}, **_AMQP_BINDING}}


def message_binding(message_type: str) -> Json:
    return {"amqp": {"messageType": message_type, **_AMQP_BINDING}}


def publishing(*, mandatory: bool) -> Json:
    """A message that is not `mandatory` is dropped if no queue is bound."""
    return {"amqp": {"deliveryMode": PERSISTENT, "mandatory": mandatory, **_AMQP_BINDING}}


def consuming() -> Json:
    return {"amqp": {"ack": True, **_AMQP_BINDING}}


def object_schema(properties: Mapping[str, Json], required: Iterable[str], **more: Any) -> Json:
    """`required` may name a property twice."""
    members = {"required": list(dict.fromkeys(required)), "properties": dict(properties)}
    return {"type": "object", **members, **more}
