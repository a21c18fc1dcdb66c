"""Refused connections to the broker: its reason, and the remedy."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from deploy.local.rabbitmq import password_hash
from deploy.local.services import BrokerNode, Services
from tests.support.stack import Stack, until
from worker.amqp.connection import Broker
from worker.amqp.errors import BrokerRefused, BrokerUnavailable

PASSWORD = "only-for-these-tests"
REFUSALS = {
    "vhost missing": (
        "stranger",
        "nowhere",
        ("530 NOT_ALLOWED - vhost nowhere not found", "or create it (`rabbitmqctl add_vhost`)"),
    ),
    "vhost not permitted": (
        "stranger",
        "refusing",
        ("530 NOT_ALLOWED - access to vhost 'refusing' refused for user 'stranger'", "grants rabbitmq"),
    ),
    "wrong password": (
        "stranger:wrong",
        "refusing",
        ("403 ACCESS_REFUSED - Login was refused", "correct user or password in STOCKHOOK_AMQP_URL"),
    ),
    "no such user": (
        "unknown",
        "refusing",
        ("403 ACCESS_REFUSED - Login was refused", "correct user or password in STOCKHOOK_AMQP_URL"),
    ),
}
LIMITS = {"vhost full": ("visitor", "full"), "user full": ("busy", "busy")}


@pytest.fixture
def node(services: Services, tmp_path: Path) -> BrokerNode:
    """Its users and virtual hosts stay, because they affect no other test."""
    if services.rabbitmq is None:
        pytest.skip("needs a RabbitMQ of our own")
    anything = {"configure": ".*", "write": ".*", "read": ".*"}
    made = {
        "vhosts": [{"name": name} for name in ("refusing", "full", "busy", "reading")],
        "users": [
            {"name": name, "password_hash": password_hash(PASSWORD), "tags": [], "limits": limits}
            for name, limits in (
                ("stranger", {}),
                ("visitor", {}),
                ("busy", {"max-connections": 0}),
                ("reader", {}),
            )
        ],
        "permissions": [
            {"user": "visitor", "vhost": "full", **anything},
            {"user": "busy", "vhost": "busy", **anything},
            {"user": "reader", "vhost": "reading", "configure": "^$", "write": "^$", "read": ".*"},
        ],
        "parameters": [
            {"component": "vhost-limits", "name": "limits", "vhost": "full", "value": {"max-connections": 0}}
        ],
    }
    file = tmp_path / "definitions.json"
    file.write_text(json.dumps(made))
    services.rabbitmq.ctl("import_definitions", str(file))
    return services.rabbitmq


def as_user(stack: Stack, user: str, vhost: str) -> str:
    parts = urlsplit(stack.environment["STOCKHOOK_AMQP_URL"])
    name, _, password = user.partition(":")
    netloc = f"{name}:{password or PASSWORD}@{parts.hostname}:{parts.port}"
    return parts._replace(netloc=netloc, path=f"/{vhost}").geturl()


async def test_a_refusal_quotes_the_broker_and_names_the_remedy(stack: Stack, node: BrokerNode) -> None:
    for case, (user, vhost, texts) in REFUSALS.items():
        with pytest.raises(BrokerRefused) as refused:
            async with Broker(as_user(stack, user, vhost), "test").connection():
                pass

        assert all(word in str(refused.value) for word in texts), (case, refused.value)
        assert PASSWORD not in str(refused.value)


async def test_a_limit_is_no_refusal_for_good(stack: Stack, node: BrokerNode) -> None:
    for case, (user, vhost) in LIMITS.items():
        with pytest.raises(BrokerUnavailable, match=r"530 NOT_ALLOWED - .*limit.*raise the limit") as full:
            async with Broker(as_user(stack, user, vhost), "test").connection():
                pass

        assert not isinstance(full.value, BrokerRefused), case


async def test_a_command_ends_with_that_sentence_and_the_right_code(stack: Stack, node: BrokerNode) -> None:
    endings = {
        ("stranger", "nowhere"): (
            78,
            "stockhook: the broker refused: 530 NOT_ALLOWED - vhost nowhere not found",
        ),
        ("visitor", "full"): (69, "stockhook: cannot reach the broker (530 NOT_ALLOWED - "),
        ("reader", "reading"): (78, "stockhook: the broker refused: ACCESS_REFUSED - "),
    }
    for (user, vhost), (code, message) in endings.items():
        ended = stack.run("topology", STOCKHOOK_AMQP_URL=as_user(stack, user, vhost))

        (sentence,) = ended.stderr.splitlines()
        assert (ended.returncode, sentence[: len(message)]) == (code, message)


async def test_doctor_reports_the_refusal_and_checks_the_rest(stack: Stack, node: BrokerNode) -> None:
    ended = stack.run("doctor", "--json", STOCKHOOK_AMQP_URL=as_user(stack, "stranger", "nowhere"))
    findings = json.loads(ended.stdout)["findings"]
    (broken,) = [finding for finding in findings if finding["subject"] == "broker"]

    assert ended.returncode == 1
    assert broken["what"] == "it refused: 530 NOT_ALLOWED - vhost nowhere not found"
    assert "`rabbitmqctl add_vhost`" in broken["remedy"]
    assert any(finding["subject"] == "migrations" for finding in findings)


async def test_processes_wait_and_log_why_and_continue_once_they_are_accepted(
    stack: Stack, node: BrokerNode
) -> None:
    vhost = urlsplit(stack.environment["STOCKHOOK_AMQP_URL"]).path[1:]
    url = as_user(stack, "stranger", vhost)
    consumer = stack.start("consume", "orders", STOCKHOOK_AMQP_URL=url)
    ingest = stack.start("ingest", STOCKHOOK_AMQP_URL=url)
    message = f"530 NOT_ALLOWED - access to vhost '{vhost}' refused for user 'stranger'"

    async def consumer_reports_it() -> bool:
        checks = (await stack.ops(consumer.ops_port, "/readyz")).json()["checks"]
        return all(message in str(checks[name]) for name in ("orders", "publisher"))

    async def ingest_reports_it() -> bool:
        return message in str((await stack.ops(ingest.ops_port, "/readyz")).json()["broker"])

    await until(_answers(stack, consumer.ops_port), "it listens")
    await until(consumer_reports_it, "readyz of the consumer says why")
    await until(_answers(stack, ingest.ops_port), "it listens")
    await until(ingest_reports_it, "readyz of the ingest says why")
    for worker in (consumer, ingest):
        refusals = [line for line in worker.lines().splitlines() if "broker.unavailable" in line]
        assert refusals
        assert all(message in line and "stockhook grants rabbitmq" in line for line in refusals)
    node.ctl("set_permissions", "-p", vhost, "stranger", ".*", ".*", ".*")
    await stack.ready(consumer)
    node.ctl("clear_permissions", "-p", vhost, "stranger")


def _answers(stack: Stack, port: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        try:
            return (await stack.ops(port, "/livez")).status_code == 200
        except httpx.TransportError:
            return False

    return look
