"""The AsyncAPI document of the broker, and a live one."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import httpx
import pytest

from deploy.local.services import Services
from tests.support.asyncapi import topology_in
from tests.support.stack import Stack
from worker.amqp.definitions import definitions
from worker.amqp.management import vhost_of
from worker.tools.asyncapi.changes import EXAMPLE_SECRET
from worker.tools.asyncapi.topology import topology_document

NAME = "described"
ORIGIN = f"stockhook.webhook.{NAME}"


@pytest.fixture
async def subscribed(services: Services, stack: Stack) -> AsyncIterator[Stack]:
    if services.rabbitmq is None or services.management_url is None:
        pytest.skip("needs a broker of our own")
    subscriber = {"name": NAME, "url": "https://shop.example", "types": ["part.*"], "secret": EXAMPLE_SECRET}
    stack.environment["STOCKHOOK_CHANGES_WEBHOOKS"] = json.dumps([subscriber])
    yield stack
    for step in ("", ".retry.1s", ".retry.2s", ".retry.3s", ".dead"):
        await stack.delete_queue(f"{ORIGIN}{step}")


async def _live(stack: Stack) -> dict[str, list[dict[str, Any]]]:
    """What the broker exports of our exchanges, queues and bindings."""
    url = stack.environment["STOCKHOOK_MANAGEMENT_URL"]
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        answer = await client.get("/api/definitions")
        answer.raise_for_status()
    exported: dict[str, list[dict[str, Any]]] = answer.json()
    return exported


def _ours(
    exported: dict[str, list[dict[str, Any]]], vhost: str, delays: Sequence[timedelta]
) -> dict[str, set[str]]:
    """As text, for a comparison without an order."""
    known = {
        "exchanges": ("name", "type", "durable", "auto_delete", "internal", "arguments"),
        "queues": ("name", "durable", "auto_delete", "arguments"),
        "bindings": ("source", "destination", "destination_type", "routing_key", "arguments"),
    }
    return {
        kind: {
            json.dumps({member: one[member] for member in members}, sort_keys=True)
            for one in exported[kind]
            if one["vhost"] == vhost and _is_ours(str(one.get("name") or one["destination"]), delays)
        }
        for kind, members in known.items()
    }


def _is_ours(name: str, delays: Sequence[timedelta]) -> bool:
    """Other tests may have left queues of other subscribers and of other delays."""
    delay = re.search(r"\.retry\.(\d+)s$", name)
    return (
        name.startswith("stockhook.")
        and (not name.startswith("stockhook.webhook.") or name.startswith(ORIGIN))
        and (delay is None or timedelta(seconds=int(delay[1])) in delays)
    )


async def test_the_document_is_what_a_live_broker_has(subscribed: Stack) -> None:
    settings = subscribed.settings
    vhost = vhost_of(settings.amqp_url.get_secret_value())
    assert subscribed.run("topology").returncode == 0
    printed = subscribed.run("asyncapi", "topology")

    document = json.loads(printed.stdout)
    described = definitions(topology_in(document), vhost)
    live = _ours(await _live(subscribed), vhost, settings.delays)
    assert document == topology_document(settings)
    assert live == _ours(described, vhost, settings.delays)
    assert len(live["queues"]) > 30
