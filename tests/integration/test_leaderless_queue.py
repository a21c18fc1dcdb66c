"""Doctor on a broker that has lost the leader of a queue: a private one, since it cannot be repaired."""

from collections.abc import Iterator

import pytest

from deploy.local.rabbitmq import VHOST
from deploy.local.services import Services
from tests.conftest import services_with_queues
from tests.integration.test_doctor import errors, examined
from tests.support.stack import Stack, until


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with services_with_queues(tmp_path_factory.mktemp("breakable")) as started:
        yield started


STOP_MEMBER = """\
{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{name}">>)),
ok = ra:stop_server(quorum_queues, amqqueue:get_pid(Queue)).
"""
"""Stops the only member of a quorum queue, which is its leader."""


async def test_a_queue_without_a_leader_is_detected(stack: Stack, services: Services) -> None:
    if services.rabbitmq is None:
        pytest.skip("needs a RabbitMQ of our own")
    name = "stockhook.returns.retry.2s"
    services.rabbitmq.ctl("eval", STOP_MEMBER.format(vhost=VHOST, name=name))

    expected = [f"{name} has no leader: it neither accepts nor delivers messages"]
    assert await until(lambda: _leaderless(stack), "it is found", 60) == expected
    stack.environment.pop("STOCKHOOK_MANAGEMENT_URL")
    assert await until(lambda: _leaderless(stack), "it is found over AMQP alone", 60) == expected

    # The reported remedy.
    await stack.delete_queue(name)
    assert stack.run("topology").returncode == 0
    _, afterwards = examined(stack)
    assert errors(afterwards) == []


async def _leaderless(stack: Stack) -> list[str]:
    _, findings = examined(stack)
    return [what for what in errors(findings) if "no leader" in what]
