"""Doctor and `topology --check` report policies on the real broker that would lose events."""

import json
import shlex
from collections.abc import AsyncIterator
from subprocess import CompletedProcess

import pytest

from deploy.local.rabbitmq import VHOST
from deploy.local.services import BrokerNode, Services
from tests.support.stack import Stack, until
from worker.amqp.policies import protecting_commands
from worker.amqp.topology import topology

HARMFUL = {
    "message-ttl": 86_400_000,
    "max-length": 500_000,
    "expires": 86_400_000,
    "dead-letter-exchange": "elsewhere",
}

SOURCE = "policy all or operator policy guard"


@pytest.fixture
async def node(services: Services, stack: Stack) -> AsyncIterator[BrokerNode]:
    if services.rabbitmq is None or services.management_url is None:
        pytest.skip("needs a RabbitMQ of our own")
    ctl = services.rabbitmq.ctl
    # `topology --check` also names undeclared queues of other tests.
    declared = {queue.name for queue in topology(stack.settings.delays).queues}
    for name in set(ctl("list_queues", "-p", VHOST, "--no-table-headers", "name").split()) - declared:
        await stack.delete_queue(name)
    ctl("set_policy", "-p", VHOST, "all", ".*", json.dumps(HARMFUL))
    ctl("set_operator_policy", "-p", VHOST, "guard", ".*", '{"message-ttl":90000000}')
    yield services.rabbitmq
    for policy in ("all", "stockhook"):
        if f"\t{policy}\t" in ctl("list_policies", "-p", VHOST):
            ctl("clear_policy", "-p", VHOST, policy)
    for policy in ("guard", "stockhook"):
        if f"\t{policy}\t" in ctl("list_operator_policies", "-p", VHOST):
            ctl("clear_operator_policy", "-p", VHOST, policy)


async def test_policies_that_would_lose_events_are_named_until_they_are_overridden(
    stack: Stack, node: BrokerNode
) -> None:
    printed = ""

    async def named() -> CompletedProcess[str] | None:
        nonlocal printed
        check = stack.run("topology", "--check")
        printed = check.stdout
        lines = [line for line in check.stdout.splitlines() if SOURCE in line]
        # The broker applies policies to its queues one by one.
        return check if len(lines) == len(HARMFUL) == len(check.stdout.splitlines()) - 1 else None

    try:
        check = await until(named, "each queue has both policies", 60)
    except AssertionError as error:
        error.add_note(printed)
        raise
    doctor = json.loads(stack.run("doctor", "--json").stdout)["findings"]
    about_policies = [finding for finding in doctor if finding["subject"] == "policies"]

    assert check.returncode == 1
    for name in HARMFUL:
        (line,) = (line for line in check.stdout.splitlines() if f"{SOURCE}: {name} " in line)
        assert "rabbitmqctl set_policy" in line
        assert any(
            f": {name} " in finding["what"] and finding["level"] == "error" for finding in about_policies
        )

    remedies = {
        remedy for finding in about_policies for remedy in finding["remedy"].partition(" (")[0].split("; ")
    }
    assert set(protecting_commands(VHOST)) < remedies
    for remedy in remedies:
        _, *arguments = shlex.split(remedy)
        node.ctl(*arguments)

    async def overridden() -> bool:
        after = stack.run("topology", "--check")
        return (after.returncode, after.stdout) == (0, "as expected\n")

    await until(overridden, "nothing is found any more", 60)


def test_without_the_management_api_policies_are_reported_as_unreadable(
    stack: Stack, node: BrokerNode
) -> None:
    del stack.environment["STOCKHOOK_MANAGEMENT_URL"]
    check = stack.run("topology", "--check")
    doctor = json.loads(stack.run("doctor", "--json").stdout)["findings"]
    (about_policies,) = [finding for finding in doctor if finding["subject"] == "policies"]

    assert (check.returncode, check.stdout) == (0, "as expected\n")
    assert "policies cannot be seen: set STOCKHOOK_MANAGEMENT_URL" in check.stderr
    assert (about_policies["level"], "cannot be seen" in about_policies["what"]) == ("unchecked", True)
