"""The AsyncAPI documents: their examples, their bindings, and the topology that they describe.

tests/deploy/test_asyncapi.py validates them as AsyncAPI, and tests/e2e/test_asyncapi.py compares them with
what is published.
"""

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
import standardwebhooks

from consumers.registry import FAMILY_OF
from schemas.changes import PREFIX, TYPES
from schemas.envelope import HEADERS
from tests.support.asyncapi import Contract, event_schemas, topology_in
from worker.amqp.desired_topology import expected_topology
from worker.amqp.topology import Topology
from worker.cli.app import app
from worker.cli.asyncapi import asyncapi
from worker.config.settings import Settings
from worker.tools.asyncapi.changes import EXAMPLE_SECRET
from worker.tools.asyncapi.document import QUEUE_ARGUMENTS
from worker.tools.asyncapi.documents import DOCUMENTS
from worker.tools.asyncapi.headers import DESCRIPTIONS
from worker.tools.asyncapi.topology import topology_document

SUBSCRIBERS = json.dumps(
    [{"name": "shop", "url": "https://shop.example", "types": ["part.*"], "secret": EXAMPLE_SECRET}]
)

# Source: the AsyncAPI bindings for AMQP and HTTP, version 0.3.0. The parser accepts unknown members of a
# queue or an exchange.
QUEUE = {"name", "durable", "exclusive", "autoDelete", "vhost"}
EXCHANGE = {"name", "type", "durable", "autoDelete", "vhost"}
BINDINGS = {
    ("channels", "amqp"): {"is", "exchange", "queue", "bindingVersion"},
    ("operations", "amqp"): {
        *("expiration", "userId", "cc", "priority", "deliveryMode", "mandatory", "bcc", "timestamp", "ack"),
        "bindingVersion",
    },
    ("operations", "http"): {"method", "query", "bindingVersion"},
    ("messages", "amqp"): {"contentEncoding", "messageType", "bindingVersion"},
    ("messages", "http"): {"headers", "statusCode", "bindingVersion"},
}


def settings(**given: Any) -> Settings:
    return Settings(**{"amqp_url": "amqp://localhost/shop", **given})


@pytest.fixture(params=DOCUMENTS)
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    return DOCUMENTS[request.param](settings())


def contract(document: dict[str, Any]) -> Contract:
    is_feed = "webhook" in document["channels"]
    return Contract.of(document, () if is_feed else event_schemas(document))


def examples(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, message in document["components"]["messages"].items():
        for example in message.get("examples", ()):
            yield name, example


def test_each_example_matches_its_schemas(document: dict[str, Any]) -> None:
    checked = contract(document)
    problems = {
        name: broken
        for name, example in examples(document)
        if (broken := checked.problems(name, example["headers"], example["payload"]))
    }

    assert problems == {}
    assert len(list(examples(document))) > 20


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: payload.pop("sequence"),
        lambda payload: payload.update(type="stockhook.part.lost"),
        lambda payload: payload.update(subject=13),
        lambda payload: payload.update(time="yesterday"),
        lambda payload: payload.update(telephone="1"),
        lambda payload: payload["data"].pop("before"),
        lambda payload: payload["data"]["after"].pop("external_id"),
        lambda payload: payload["data"]["after"].update(since=None),
        lambda payload: payload["data"]["after"].update(name="Anna"),
    ],
)
def test_a_change_that_differs_from_its_schema_is_noticed(change: Any) -> None:
    document = DOCUMENTS["changes"](settings())
    example = copy.deepcopy(document["components"]["messages"]["part.sold"]["examples"][0])
    change(example["payload"])

    assert contract(document).problems("part.sold", example["headers"], example["payload"])


@pytest.mark.parametrize(
    "change",
    [
        lambda headers: headers.pop("x-event-id"),
        lambda headers: headers.update({"x-event-id": "13"}),
        lambda headers: headers.update({"x-attempt": 0}),
        lambda headers: headers.update({"x-provenance": "rumour"}),
        lambda headers: headers.update({"x-new": "1"}),
    ],
)
def test_headers_that_differ_from_their_schema_are_noticed(change: Any) -> None:
    document = DOCUMENTS["topology"](settings())
    example = copy.deepcopy(document["components"]["messages"]["ovoko.order.created"]["examples"][0])
    change(example["headers"])

    assert contract(document).problems("ovoko.order.created", example["headers"], example["payload"])


def test_the_signature_of_each_example_is_valid() -> None:
    document = DOCUMENTS["changes"](settings())
    webhook = standardwebhooks.Webhook(EXAMPLE_SECRET)
    signed = [
        (example["headers"], orjson.dumps(example["payload"]))
        for name, example in examples(document)
        if name.endswith(".webhook")
    ]

    assert len(signed) == sum(map(len, TYPES.values()))
    for headers, body in signed:
        signature = webhook.sign(headers["webhook-id"], _seconds(headers), body.decode())
        assert headers["webhook-signature"] == signature
        assert headers["webhook-id"] == json.loads(body)["id"]


def _seconds(headers: dict[str, str]) -> datetime:
    return datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)


def test_the_feed_has_each_type_over_amqp_and_http() -> None:
    document = DOCUMENTS["changes"](settings())
    names = [name for types in TYPES.values() for name in types]
    over_amqp = [
        name
        for kind, channel in document["channels"].items()
        if kind != "webhook"
        for name in channel["messages"]
    ]
    addresses = {
        channel["address"].format(change=change)
        for channel in document["channels"].values()
        if channel["address"] is not None
        for change in channel["parameters"]["change"]["enum"]
    }

    assert over_amqp == names
    assert list(document["channels"]["webhook"]["messages"]) == [f"{name}.webhook" for name in names]
    assert addresses == {PREFIX + name for name in names}
    assert {name for name, _ in examples(document)} == {*names, *(f"{name}.webhook" for name in names)}
    for name, example in examples(document):
        assert example["payload"]["type"] == PREFIX + name.removesuffix(".webhook")


def test_each_event_type_has_a_message_with_an_example() -> None:
    document = DOCUMENTS["topology"](settings())
    channels = document["channels"]

    assert set(FAMILY_OF) <= {name for name, _ in examples(document)}
    for key, family in FAMILY_OF.items():
        assert key in channels[f"queue.stockhook.{family}"]["messages"]
        assert key in channels["exchange.stockhook.events"]["messages"]


def test_each_header_of_the_envelope_is_described() -> None:
    document = DOCUMENTS["topology"](settings())

    assert set(DESCRIPTIONS) == set(HEADERS)
    assert list(document["components"]["schemas"]["EventHeaders"]["properties"]) == list(HEADERS)


def test_no_example_has_a_ciphertext_or_a_secret(document: dict[str, Any]) -> None:
    text = json.dumps([example for _, example in examples(document)])

    assert text.replace("gAAAAA\\u2026", "").count("gAAAAA") == 0
    assert '"token"' not in text


def unknown_members(document: dict[str, Any]) -> Iterator[str]:
    """Members that the bindings do not have."""
    parts = {**document, "messages": document["components"]["messages"]}
    for part in ("channels", "operations", "messages"):
        for name, item in parts[part].items():
            for protocol, binding in item.get("bindings", {}).items():
                known = {
                    "": (binding, BINDINGS[part, protocol]),
                    "queue": (binding.get("queue", {}), QUEUE),
                    "exchange": (binding.get("exchange", {}), EXCHANGE),
                }
                for place, (members, names) in known.items():
                    yield from (f"{part} {name} {place} {each}" for each in members.keys() - names)


def test_bindings_have_only_known_members(document: dict[str, Any]) -> None:
    assert list(unknown_members(document)) == []


def test_an_unknown_member_of_a_queue_is_noticed() -> None:
    document = DOCUMENTS["topology"](settings())
    document["channels"]["queue.stockhook.orders"]["bindings"]["amqp"]["queue"]["type"] = "quorum"

    assert list(unknown_members(document)) == ["channels queue.stockhook.orders queue type"]


def _sorted(topology: Topology) -> tuple[Any, ...]:
    return (topology.exchanges, topology.queues, sorted(topology.bindings, key=repr))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"retry_delays": "1,60"},
        {"retry_delays": "5", "changes_webhooks": SUBSCRIBERS},
    ],
)
def test_the_document_describes_the_expected_topology(given: dict[str, Any]) -> None:
    chosen = settings(**given)
    document = topology_document(chosen)

    assert _sorted(topology_in(document)) == _sorted(expected_topology(chosen))
    assert ("{subscriber}" in json.dumps(document)) == ("changes_webhooks" not in given)
    assert all(
        channel["bindings"]["amqp"][kind]["vhost"] == "shop"
        for channel in document["channels"].values()
        for kind in ("queue", "exchange")
        if kind in channel["bindings"]["amqp"]
    )


def test_an_argument_that_differs_is_noticed() -> None:
    document = DOCUMENTS["topology"](settings())
    document["channels"]["queue.stockhook.orders.dead"][QUEUE_ARGUMENTS]["x-max-length"] = 5

    assert _sorted(topology_in(document)) != _sorted(expected_topology(settings()))


def test_the_names_of_retry_queues_follow_the_settings() -> None:
    chosen = settings(retry_delays="2")

    assert chosen.delays == (timedelta(seconds=2),)
    assert "queue.stockhook.orders.retry.2s" in topology_document(chosen)["channels"]


def references(value: Any) -> Iterator[str]:
    match value:
        case {"$ref": str(reference)}:
            yield reference
        case dict():
            for member in value.values():
                yield from references(member)
        case list():
            for element in value:
                yield from references(element)


def test_each_reference_leads_somewhere(document: dict[str, Any]) -> None:
    every = set(references(document))
    for reference in every:
        place: Any = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]

    assert len(every) > 50


def test_every_schema_and_message_is_used(document: dict[str, Any]) -> None:
    used = set(references(document))
    unused = [
        f"#/components/{part}/{name}"
        for part in ("schemas", "messages", "securitySchemes")
        for name in document["components"][part]
        if f"#/components/{part}/{name}" not in used
    ]

    assert unused == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_command_prints_a_document(name: Any, capsys: pytest.CaptureFixture[str]) -> None:
    asyncapi(name)
    people = capsys.readouterr().out
    asyncapi(name, json=True)
    machines = capsys.readouterr().out

    assert json.loads(people) == json.loads(machines) == DOCUMENTS[name](Settings())
    assert len(people.splitlines()) > len(machines.splitlines()) == 1


def test_the_command_without_a_name_tells_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    asyncapi()
    people = capsys.readouterr().out
    asyncapi(json=True)
    machines = capsys.readouterr().out

    assert [line.partition(":")[0] for line in people.splitlines()] == ["changes", "topology"]
    assert json.loads(machines) == {name: make(Settings()) for name, make in DOCUMENTS.items()}


def test_the_command_refuses_another_name() -> None:
    with pytest.raises(SystemExit) as ended:
        app(["asyncapi", "orders"])

    assert ended.value.code == 2
