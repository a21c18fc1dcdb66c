"""deploy/rabbitmq on a private broker that is booted with it."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.local.ports import choose_and_remember
from deploy.local.process import Spawner
from deploy.local.rabbitmq import PORT_NAMES, RabbitNode, RabbitSettings
from deploy.local.services import CHECKOUT, find_programs_or_none
from tests.support.stack import Stack, delays
from worker.amqp.definitions import definitions
from worker.amqp.topology import topology

RABBITMQ = CHECKOUT / "deploy/rabbitmq"
DELAYS = (7, 35, 175)


def read(name: str) -> dict[str, list[dict[str, object]]]:
    document: dict[str, list[dict[str, object]]] = json.loads((RABBITMQ / name).read_text())
    return document


@pytest.fixture
def booted(tmp_path: Path) -> Iterator[RabbitNode]:
    """A node with our configuration and definitions, and a user."""
    programs = find_programs_or_none(print)
    if programs is None:
        pytest.skip("needs a RabbitMQ to start; here there is none, nor apt")
    folder = tmp_path / "node"
    folder.mkdir()
    settings = RabbitSettings(
        folder=folder,
        log=tmp_path / "node.log",
        programs=programs.rabbitmq,
        ports=choose_and_remember(tmp_path / "ports.json", PORT_NAMES),
        password="only-for-this-test",
        further_lines=(RABBITMQ / "stockhook.conf").read_text(),
        further_definitions={**read("limits.json"), **read("topology.json")},
    )
    spawner = Spawner()
    node = RabbitNode(settings, spawner=spawner, durable=False)
    try:
        node.start()
        yield node
    finally:
        node.stop()
        spawner.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_definitions_match_the_code() -> None:
    """Run `make docs` if this fails."""
    assert read("topology.json") == definitions(topology(delays(*DELAYS)), "stockhook")


def test_a_broker_that_boots_with_them_is_as_the_product_expects(booted: RabbitNode, tmp_path: Path) -> None:
    product = Stack(
        {
            "STOCKHOOK_AMQP_URL": booted.url,
            "STOCKHOOK_MANAGEMENT_URL": booted.management_url,
            "STOCKHOOK_RETRY_DELAYS": ",".join(map(str, DELAYS)),
        },
        tmp_path,
    )
    check = product.run("topology", "--check")
    declared = product.run("topology")
    other = replace(product, environment={**product.environment, "STOCKHOOK_RETRY_DELAYS": "7,35"})
    check_of_other_delays = other.run("topology", "--check")

    assert (check.returncode, check.stdout) == (0, "as expected\n"), check.stderr
    assert declared.returncode == 0, declared.stderr
    assert "stockhook.orders.retry.175s is not ours" in check_of_other_delays.stdout


def test_its_settings_and_limits_are_in_force(booted: RabbitNode) -> None:
    environment = booted.ctl("environment")
    limits = json.loads(booted.ctl("list_vhost_limits", "--vhost", "stockhook", "--formatter", "json"))

    for setting in (
        "{consumer_timeout,1800000}",
        "{max_message_size,16777216}",
        '{disk_free_limit,"5GB"}',
        "{vm_memory_high_watermark,0.6}",
        "{channel_max,64}",
        "{cluster_partition_handling,pause_minority}",
    ):
        assert setting in environment
    assert json.loads(limits["value"]) == {"max-connections": 500, "max-queues": 100}
