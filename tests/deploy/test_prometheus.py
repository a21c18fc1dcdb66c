"""deploy/prometheus: promtool accepts the rules, and alerts fire only when they should."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deploy.local.packages import DownloadFailed, apt_is_here, promtool
from deploy.local.ports import LOOPBACK
from deploy.local.rabbitmq import VHOST, RabbitNode, node_environment
from deploy.local.services import CHECKOUT, PACKAGES
from tests.deploy.promql import KNOWN_OF_OTHERS, NEWER_THAN_3_10, known, queried_series
from tests.deploy.test_rabbitmq import booted  # noqa: F401  # a fixture
from tests.support.stack import Stack, delays, free_port, until
from worker.amqp.channel import Message
from worker.amqp.connection import Broker
from worker.amqp.topology import RETURN, topology

PROMETHEUS = CHECKOUT / "deploy/prometheus"


def rules(name: str) -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load((PROMETHEUS / name).read_text())["groups"]:
        yield from group["rules"]


ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml")}
RECORDED = {rule["record"] for rule in rules("recording.yml")}


@pytest.fixture(scope="session")
def program() -> Path:
    if shutil.which("promtool") is None and not apt_is_here():
        pytest.skip("needs promtool; here there is none, nor apt")
    try:
        return promtool(PACKAGES, print)
    except DownloadFailed as error:
        pytest.skip(f"needs promtool: {error}")


def run(program: Path, *arguments: str, given: str = "") -> None:
    done = subprocess.run(
        [str(program), *arguments],
        cwd=PROMETHEUS,
        input=given,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_and_its_rules_are_accepted(program: Path) -> None:
    run(program, "check", "config", "prometheus.yml")


def test_each_alert_fires_only_when_it_should(program: Path) -> None:
    run(program, "test", "rules", "alerts_test.yml")


def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    cases = [(test["name"], check) for test in tests for check in test["promql_expr_test"]]
    fires = {name for name, check in cases if check["exp_samples"]}
    does_not = {name for name, check in cases if not check["exp_samples"]}

    assert all(f'"{name}"' in check["expr"] for name, check in cases)
    assert fires == does_not == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_severity_and_a_runbook(name: str) -> None:
    rule = ALERTS[name]

    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"deploy/runbooks/{name}.md"


def test_each_rule_queries_existing_series() -> None:
    queried = {name for rule in rules("alerts.yml") for name in queried_series(rule["expr"])}
    recorded_from = {name for rule in rules("recording.yml") for name in queried_series(rule["expr"])}

    assert queried - RECORDED - known() == set()
    assert recorded_from - known() == set()


async def test_the_broker_exports_the_series_of_the_rules(booted: RabbitNode) -> None:  # noqa: F811
    """For an expired event whose return queue is deleted: it exists, but is not ready."""
    url = scrape_metrics(booted)
    held = f'{{vhost="{VHOST}",queue="stockhook.orders.retry.1s"}}'
    async with Broker(booted.url, "test").connection() as connection:
        channel = await connection.channel()
        await channel.ensure_topology(topology(delays(1)))
        await channel.delete("stockhook.orders")
        await channel.publish(Message(RETURN, "stockhook.orders.retry.1s", "x", {}, b""), 5)

    async def scrape() -> str | None:
        async with httpx.AsyncClient(timeout=20) as client:
            text = (await client.get(url)).text
        is_held = f"rabbitmq_queue_messages{held} 1\n" in text
        return text if is_held and f"rabbitmq_queue_messages_ready{held} 0\n" in text else None

    exported = await until(scrape, "the event is held", 60)
    queried = {name for name in KNOWN_OF_OTHERS - NEWER_THAN_3_10 if name.startswith("rabbitmq_")}

    assert {name for name in queried if not re.search(rf"^{name}[{{ ]", exported, re.MULTILINE)} == set()


def scrape_metrics(node: RabbitNode) -> str:
    """Start the broker's plugin on a free port; return the URL of its metrics per queue."""
    port = free_port()
    settings = node.settings
    listener = f'[{{port, {port}}}, {{ip, "{LOOPBACK}"}}]'
    # A variable that is set before its application is loaded must be persistent.
    setting = f"rabbitmq_prometheus, tcp_config, {listener}, [{{persistent, true}}]"
    node.ctl("eval", f"application:set_env({setting}).")
    subprocess.run(
        [str(settings.programs.rabbitmq / "rabbitmq-plugins"), "enable", "rabbitmq_prometheus"],
        env=node_environment(settings),
        capture_output=True,
        timeout=60,
        check=True,
    )
    return f"http://{LOOPBACK}:{port}/metrics/per-object"


async def test_promtool_accepts_the_metrics_of_the_processes(stack: Stack, program: Path) -> None:
    worker = await stack.started("run")
    for port in (worker.ops_port, worker.ops_port + 1):
        run(program, "check", "metrics", given=(await stack.ops(port, "/metrics")).text)
