"""Reads an AsyncAPI document as a client does: which messages match it, and which topology it describes."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from worker.amqp.topology import Binding, Exchange, Queue, Topology
from worker.tools.asyncapi.document import EXCHANGE_ARGUMENTS, QUEUE_ARGUMENTS, QUEUE_BINDINGS

Json = dict[str, Any]

# Draft 7 does not know this one.
_FORMATS = {"uuid": lambda text: re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text) is not None}


@dataclass(frozen=True, slots=True)
class Contract:
    """A document whose schemas accept only the members that they name.

    The documents are open, so that members can be added. Here each member that is published must be in them.
    `open_schemas` are left as they are.
    """

    document: Json

    @classmethod
    def of(cls, document: Json, open_schemas: Collection[str] = ()) -> "Contract":
        copy = json.loads(json.dumps(document))
        for name, schema in copy["components"]["schemas"].items():
            if name not in open_schemas:
                _close(schema)
        return cls(copy)

    @property
    def messages(self) -> Mapping[str, Json]:
        messages: Json = self.document["components"]["messages"]
        return messages

    def in_channel(self, channel: str) -> list[str]:
        """The names of the messages of a channel."""
        return list(self.document["channels"][channel]["messages"])

    def problems(self, name: str, headers: Mapping[str, Any], payload: Any) -> list[str]:
        """What breaks the schemas of a message."""
        message = self.messages[name]
        return [
            f"{part} {'.'.join(map(str, error.instance_path))}: {error.message}"
            for part, value in (("headers", dict(headers)), ("payload", payload))
            if part in message
            for error in self._errors(message[part], value)
        ]

    def _errors(self, schema: Json, value: Any) -> Iterator[jsonschema_rs.ValidationError]:
        whole = {**schema, "components": self.document["components"]}
        if "$ref" in schema:
            # Draft 7 ignores what stands beside a reference.
            whole = {"allOf": [schema], "components": self.document["components"]}
        return jsonschema_rs.Draft7Validator(whole, formats=_FORMATS, validate_formats=True).iter_errors(
            value
        )


def _close(schema: Any) -> None:
    match schema:
        case dict():
            if "properties" in schema and schema.get("type") == "object":
                schema.setdefault("additionalProperties", False)
            for member in schema.values():
                _close(member)
        case list():
            for element in schema:
                _close(element)


def topology_in(document: Json) -> Topology:
    """What the channels describe, without the template of a subscriber."""
    channels = [channel for channel in document["channels"].values() if "parameters" not in channel]
    exchanges = [channel for channel in channels if channel["bindings"]["amqp"]["is"] == "routingKey"]
    queues = [channel for channel in channels if channel["bindings"]["amqp"]["is"] == "queue"]
    return Topology(
        exchanges=tuple(_exchange(channel) for channel in exchanges),
        queues=tuple(
            Queue(channel["bindings"]["amqp"]["queue"]["name"], channel[QUEUE_ARGUMENTS])
            for channel in queues
        ),
        bindings=tuple(
            Binding(binding["exchange"], channel["address"], binding["routingKey"])
            for channel in queues
            for binding in channel[QUEUE_BINDINGS]
        ),
    )


def _exchange(channel: Json) -> Exchange:
    properties = channel["bindings"]["amqp"]["exchange"]
    return Exchange(properties["name"], properties["type"], channel[EXCHANGE_ARGUMENTS])


def event_schemas(document: Json) -> frozenset[str]:
    """The schemas of what marketplaces send, which may add members at any time."""
    ours = {"Action", "Change", *(name for name in document["components"]["schemas"] if "Headers" in name)}
    return frozenset(document["components"]["schemas"]) - ours
