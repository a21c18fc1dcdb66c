"""Names and attributes of the spans of messages, by OpenTelemetry's conventions for messaging and RabbitMQ.

They hold names of ours and ids, and nothing from a body.
"""

from collections.abc import Mapping
from dataclasses import replace

from worker.amqp.channel import Message
from worker.amqp.topology import EVENTS, RETURN

SYSTEM = {"messaging.system": "rabbitmq"}


def sent(message: Message, message_id: str) -> tuple[str, dict[str, str | int]]:
    """Name and attributes of a publish. A routing key has no unknown type of a sender."""
    return f"send {message.exchange}", {
        **SYSTEM,
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": f"{message.exchange}:{message.routing_key}",
        "messaging.message.id": message_id,
        "messaging.message.body.size": len(message.body),
    }


def processed(queue: str, destination: str) -> tuple[str, dict[str, str | int]]:
    """Name and attributes of the processing of deliveries from a queue."""
    return f"process {queue}", {
        **SYSTEM,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": destination,
    }


def came_over(queue: str, routing_key: str | None, *, returned: bool) -> str:
    """The destination of a delivery: exchange, routing key and queue; equal ones are named once.

    A message that was `returned`, from a retry queue or by a replay, came over the exchange to all queues.
    """
    if returned:
        return f"{RETURN}:{queue}"
    return f"{EVENTS}:{queue}" if routing_key is None else f"{EVENTS}:{routing_key}:{queue}"


def with_headers(message: Message, headers: Mapping[str, str]) -> Message:
    return replace(message, headers={**message.headers, **headers})
