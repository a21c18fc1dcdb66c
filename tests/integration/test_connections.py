"""A consumer process opens at most the documented number of connections."""

import re
from pathlib import Path

import pytest

from consumers.registry import FAMILIES
from deploy.local.services import Services
from tests.support.stack import Stack, until
from worker.config.connections import BROKER_CONNECTIONS, CONNECTIONS

SIZING = Path(__file__).parents[2] / "docs/guides/sizing.md"

OPEN_TO_DATABASE = "SELECT pid FROM pg_stat_activity WHERE application_name = 'stockhook/consumer'"


def documented(what: str) -> int:
    text = " ".join(SIZING.read_text().split())
    sentence = re.search(rf"\(families \+ (\d+)\) connections to {what}", text)
    assert sentence, f"docs/guides/sizing.md does not say how many connections lead to {what}"
    return int(sentence[1])


def test_the_documented_numbers_of_connections_are_those_of_the_code() -> None:
    assert documented("Postgres") == CONNECTIONS
    assert documented("the broker") == BROKER_CONNECTIONS


async def test_a_consumer_process_opens_no_more_connections_than_documented(
    stack: Stack, services: Services
) -> None:
    rabbitmq = services.rabbitmq
    if rabbitmq is None:
        pytest.skip("needs a RabbitMQ of our own")
    rabbitmq.ctl("close_all_connections", "a test begins")
    await stack.started("consume", STOCKHOOK_KEEP_DEAD_LETTERS="true")
    counts: list[int] = []

    async def is_settled() -> bool:
        """Connections are opened one by one; the number counts once it is stable."""
        listed = rabbitmq.ctl("list_connections", "client_properties")
        counts.append(listed.count("connection_name"))
        return len(counts) > 5 and len(set(counts[-5:])) == 1

    await until(is_settled, "the number of connections stays the same", seconds=60)

    assert len(FAMILIES) < max(counts) <= len(FAMILIES) + BROKER_CONNECTIONS
    assert 0 < len(await stack.fetch(OPEN_TO_DATABASE)) <= len(FAMILIES) + CONNECTIONS
