"""The checks of doctor in the console, and those of the ops ports, on real services."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from deploy.local.services import Services
from tests.support.console import browser, console, sign_in
from tests.support.stack import OVOKO_SECRET, Stack, free_port

URLS = "STOCKHOOK_CONSOLE_OPS_URLS"


async def _findings(client: httpx.AsyncClient) -> tuple[dict[str, Any], set[tuple[str, str]]]:
    answer = await client.get("/doctor.json")
    assert answer.status_code == 200, answer.text
    report: dict[str, Any] = answer.json()
    return report, {(one["level"], one["subject"]) for one in report["findings"]}


async def test_the_page_has_each_finding_with_its_remedy_and_says_what_it_cannot_check(stack: Stack) -> None:
    ingest = await stack.started("ingest")
    given = {
        URLS: f"http://127.0.0.1:{ingest.ops_port}",
        "STOCKHOOK_SPOOL_PATH": "/proc/nowhere/spool.sqlite3",
        "STOCKHOOK_TRACING": "true",
        "OTEL_SDK_DISABLED": "true",
    }
    stack.run("pause", "orders", "--reason", "<b>repair</b>")
    async with console(stack, **given) as (url, worker), browser(url) as client:
        await sign_in(client)
        reports = await asyncio.gather(*(_findings(client) for _ in range(5)))
        page = (await client.get("/doctor")).text
        runs = worker.lines().count('"doctor.examined"')
    report, known = reports[0]

    assert runs == 1, "all viewers share one run"
    assert {one["at"] for one, _ in reports} == {report["at"]}
    assert {("ok", "topology"), ("ok", "migrations"), ("ok", "ops ports"), ("warning", "pauses")} <= known
    assert ("warning", "traces") in known
    assert {("unchecked", name) for name in ("secrets", "ingest", "spool", "changes")} <= known
    assert ("error", "spool") not in known
    assert all(one["remedy"] for one in report["findings"] if one["level"] != "ok")
    assert sum(report["counts"].values()) == len(report["findings"])
    assert "run <code>stockhook resume orders</code>" in page
    assert "&lt;b&gt;repair&lt;/b&gt;" in page
    assert "cannot be checked from here" in page
    assert OVOKO_SECRET not in page


async def test_while_the_broker_is_away_the_page_says_so_and_checks_the_rest(
    services: Services, stack: Stack
) -> None:
    if services.rabbitmq is None:
        pytest.skip("needs a RabbitMQ of our own")
    async with console(stack) as (url, _), browser(url) as client:
        await sign_in(client)
        services.rabbitmq.stop()
        try:
            report, known = await _findings(client)
        finally:
            services.rabbitmq.start()

    assert {("error", "broker"), ("ok", "migrations")} <= known
    assert report["seconds"] < 60


async def test_an_ops_port_that_does_not_answer_is_an_error_with_a_remedy(stack: Stack) -> None:
    ingest = await stack.started("ingest")
    port = free_port()
    urls = [f"http://127.0.0.1:{ingest.ops_port}", f"http://127.0.0.1:{port}", "http://ingest.invalid:9090"]
    report = json.loads(stack.run("doctor", "--json", **{URLS: ",".join(urls)}).stdout)
    without = json.loads(stack.run("doctor", "--json").stdout)
    listed = [one for one in report["findings"] if one["subject"] == "ops ports"]

    assert [(one["level"], one["what"]) for one in listed] == [
        ("ok", f"127.0.0.1:{ingest.ops_port} answers with our metrics"),
        ("error", f"127.0.0.1:{port}: it cannot be connected to"),
        ("error", "ingest.invalid:9090: the name cannot be resolved"),
    ]
    assert "correct the name in STOCKHOOK_CONSOLE_OPS_URLS" in listed[2]["remedy"]
    assert "STOCKHOOK_OPS_PORT" in listed[1]["remedy"]
    assert not [one for one in without["findings"] if one["subject"] == "ops ports"]
