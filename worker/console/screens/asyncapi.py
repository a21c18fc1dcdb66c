"""The AsyncAPI documents as a page: channels, messages with examples, and schemas as tables."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from worker.config.settings import Settings
from worker.console.contract import Console, NotThere, Parameters
from worker.observability.inert_text import json_text
from worker.tools.asyncapi.document import EXCHANGE_ARGUMENTS, QUEUE_ARGUMENTS, QUEUE_BINDINGS, Json
from worker.tools.asyncapi.documents import DOCUMENTS

# The documents depend on the settings and the release, which change with a new process.
FRESH_SECONDS = 86_400.0

# Rules of a schema that a table shows as they are.
_RULES = ("format", "pattern", "minimum", "maximum", "maxLength")


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    url: str
    description: str
    security: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Security:
    name: str
    kind: str
    description: str


@dataclass(frozen=True, slots=True)
class Channel:
    """`address` is a routing key or a queue; None if the settings or the sender choose it."""

    name: str
    title: str
    address: str | None
    description: str
    kind: str
    arguments: tuple[str, ...]
    bindings: tuple[str, ...]
    messages: tuple[str, ...]
    operations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """`headers` and `payload` name schemas; `examples` are JSON."""

    name: str
    title: str
    description: str
    content_type: str
    headers: str | None
    payload: str | None
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """`schemas` are the schemas that its type names."""

    name: str
    type: str
    is_required: bool
    rules: str
    description: str
    schemas: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SchemaTable:
    """`type` says what it is if it is no object with fields."""

    name: str
    description: str
    type: str
    schemas: tuple[str, ...]
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Documents:
    """`names` are all documents; the others are of the document `name`."""

    names: tuple[str, ...]
    name: str
    title: str
    version: str
    asyncapi: str
    description: str
    servers: tuple[Server, ...]
    security: tuple[Security, ...]
    operations: tuple[tuple[str, str], ...]
    channels: tuple[Channel, ...]
    messages: tuple[Message, ...]
    schemas: tuple[SchemaTable, ...]


async def view(console: Console, parameters: Parameters) -> Documents:
    """Raises: NotThere."""
    name = parameters.get("document") or next(iter(DOCUMENTS))
    if name not in DOCUMENTS:
        raise NotThere(f"There is no AsyncAPI document with this name, only {' and '.join(DOCUMENTS)}.")
    make = partial(asyncio.to_thread, shown, name, console.settings)
    return await console.shared.get(("asyncapi", name), FRESH_SECONDS, make)


async def document(name: str, console: Console, _: Parameters) -> AsyncIterator[str]:
    """The document itself, as JSON."""
    make = partial(asyncio.to_thread, _text, name, console.settings)
    yield await console.shared.get(("asyncapi as JSON", name), FRESH_SECONDS, make)


def _text(name: str, settings: Settings) -> str:
    return json_text(DOCUMENTS[name](settings), indent=True) + "\n"


def shown(name: str, settings: Settings) -> Documents:
    document = DOCUMENTS[name](settings)
    components = document["components"]
    operations = document["operations"].items()
    return Documents(
        names=tuple(DOCUMENTS),
        name=name,
        title=document["info"]["title"],
        version=document["info"]["version"],
        asyncapi=document["asyncapi"],
        description=document["info"]["description"],
        servers=tuple(_server(server, each) for server, each in document["servers"].items()),
        security=tuple(
            Security(scheme, each["type"], each["description"])
            for scheme, each in components["securitySchemes"].items()
        ),
        operations=tuple(
            (each["title"], each["description"]) for _, each in operations if each.get("description")
        ),
        channels=tuple(
            _channel(channel, each, [one for _, one in operations if _target(one["channel"]) == channel])
            for channel, each in document["channels"].items()
        ),
        messages=tuple(_message(message, each) for message, each in components["messages"].items()),
        schemas=tuple(_table(schema, each) for schema, each in components["schemas"].items()),
    )


def _server(name: str, server: Json) -> Server:
    url = f"{server['protocol']}://{server['host']}{server.get('pathname', '')}"
    defaults = {variable: each["default"] for variable, each in server["variables"].items()}
    return Server(
        name, url.format(**defaults), server["description"], tuple(map(_target, server["security"]))
    )


def _channel(name: str, channel: Json, operations: Sequence[Json]) -> Channel:
    binding = channel.get("bindings", {}).get("amqp", {})
    match binding.get("is"):
        case "queue":
            kind = "queue"
        case "routingKey":
            kind = f"{binding['exchange']['type']} exchange {binding['exchange']['name']}"
        case _:
            kind = "HTTP POST"
    arguments = channel.get(QUEUE_ARGUMENTS) or channel.get(EXCHANGE_ARGUMENTS) or {}
    return Channel(
        name=name,
        title=channel["title"],
        address=channel["address"],
        description=channel.get("description", ""),
        kind=kind,
        arguments=tuple(f"{argument}={_word(value)}" for argument, value in arguments.items()),
        bindings=tuple(
            f"{each['exchange']} ← {each['routingKey']}" if each["routingKey"] else each["exchange"]
            for each in channel.get(QUEUE_BINDINGS, ())
        ),
        messages=tuple(channel["messages"]),
        operations=tuple(f"{each['action']}: {each['title']}" for each in operations),
    )


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _message(name: str, message: Json) -> Message:
    headers, payload = message.get("headers"), message.get("payload")
    return Message(
        name=name,
        title=message["title"],
        description=message.get("description", ""),
        content_type=message["contentType"],
        headers=None if headers is None else _target(headers),
        payload=None if payload is None else _target(payload),
        examples=tuple(json_text(example, indent=True) for example in message.get("examples", ())),
    )


def _target(reference: Mapping[str, str]) -> str:
    return reference["$ref"].rpartition("/")[2]


def _table(name: str, schema: Json) -> SchemaTable:
    fields = tuple(_fields(schema))
    text, schemas = ("", ()) if fields else _type(schema)
    return SchemaTable(name, schema.get("description", ""), text, schemas, fields)


def _fields(schema: Json, prefix: str = "") -> Iterator[Field]:
    """The fields of an object, and of the objects in it."""
    required = schema.get("required", ())
    for name, member in schema.get("properties", {}).items():
        text, schemas = _type(member)
        yield Field(
            name=prefix + name,
            type=text,
            is_required=name in required,
            rules=", ".join(_rules(member)),
            description=member.get("description", ""),
            schemas=schemas,
        )
        yield from _fields(member, f"{prefix}{name}.")


def _rules(schema: Json) -> Iterator[str]:
    for each in (schema, *_alternatives(schema)):
        yield from (f"{rule} {each[rule]}" for rule in _RULES if rule in each)


def _alternatives(schema: Json) -> Sequence[Json]:
    listed: Sequence[Json] = schema.get("oneOf") or schema.get("anyOf") or ()
    return listed


def _type(schema: Json) -> tuple[str, tuple[str, ...]]:
    """In words, and the schemas that the words name."""
    match schema:
        case {"$ref": _}:
            return _target(schema), (_target(schema),)
        case {"const": value}:
            return json_text(value), ()
        case {"enum": values}:
            return " or ".join(map(json_text, values)), ()
        case {"type": "array", "items": items}:
            text, schemas = _type(items)
            return f"list of {text}", schemas
        case {"type": str(kind)}:
            return kind, ()
    types = [_type(each) for each in _alternatives(schema)]
    names = dict.fromkeys(name for _, schemas in types for name in schemas)
    return " or ".join(text for text, _ in types) or "any", tuple(names)
