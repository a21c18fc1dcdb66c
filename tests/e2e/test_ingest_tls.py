"""The ingest as a process that speaks TLS: certificate renewed by SIGHUP, client certificates, commands."""

import json
import shutil
import signal
import ssl
from pathlib import Path

import httpx
import pytest

from tests.support.authority import Authority, make_authority
from tests.support.events import body, order_created
from tests.support.stack import OVOKO_SECRET, Stack, until

HEADERS = {"X-Webhook-Secret": OVOKO_SECRET}


@pytest.fixture
def first(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "first")


@pytest.fixture
def second(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "second")


def install(stack: Stack, authority: Authority) -> None:
    certificate, key = stack.folder / "tls.crt", stack.folder / "tls.key"
    shutil.copy(authority.certificate, certificate)
    shutil.copy(authority.key, key)
    stack.environment |= {
        "STOCKHOOK_INGEST_CERTIFICATE_FILE": str(certificate),
        "STOCKHOOK_INGEST_KEY_FILE": str(key),
    }


def sender(stack: Stack, authority: Authority, *, shown: Authority | None = None) -> httpx.AsyncClient:
    context = ssl.create_default_context(cafile=authority.ca)
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    url = f"https://127.0.0.1:{stack.environment['STOCKHOOK_INGEST_PORT']}"
    return httpx.AsyncClient(base_url=url, verify=context, headers=HEADERS, timeout=20)


async def is_listening(stack: Stack, authority: Authority, shown: Authority | None = None) -> bool:
    try:
        async with sender(stack, authority, shown=shown) as client:
            return (await client.get("/readyz")).is_success
    except httpx.TransportError:
        return False


async def test_a_certificate_is_renewed_by_sighup_while_requests_go_on(
    stack: Stack, first: Authority, second: Authority
) -> None:
    install(stack, first)
    ingest = stack.start("ingest")
    await until(lambda: is_listening(stack, first), "it listens")
    statuses = []
    async with sender(stack, first) as open_before:
        statuses.append(
            (await open_before.post("/webhooks/ovoko", content=body(order_created(1)))).status_code
        )
        install(stack, second)
        ingest.signal(signal.SIGHUP)
        await until(lambda: is_listening(stack, second), "the new certificate is shown")
        statuses.append(
            (await open_before.post("/webhooks/ovoko", content=body(order_created(2)))).status_code
        )
    async with sender(stack, second) as open_after:
        statuses.append(
            (await open_after.post("/webhooks/ovoko", content=body(order_created(3)))).status_code
        )

    assert statuses == [200] * 3
    assert await stack.depths() == {"stockhook.orders": 3}
    ready = (await stack.ops(ingest.ops_port, "/readyz")).json()
    assert ready["certificate"]["reload"] == "ok"
    assert json.loads(stack.run("status", "--json").stdout)["ingest"] == "publishing"
    findings = json.loads(stack.run("doctor", "--json").stdout)["findings"]
    assert [finding["subject"] for finding in findings if finding["subject"].startswith("ingest")] == [
        "ingest",
        "ingest certificate",
    ]
    assert ingest.stop() == 0


async def test_sighup_to_run_renews_the_certificate_and_ends_nothing(
    stack: Stack, first: Authority, second: Authority
) -> None:
    install(stack, first)
    run = stack.start("run")
    await until(lambda: is_listening(stack, first), "it listens", 40)
    install(stack, second)
    run.signal(signal.SIGHUP)
    await until(lambda: is_listening(stack, second), "the new certificate is shown")

    assert run.stop() == 0


async def test_with_a_client_ca_only_its_certificates_are_served_and_commands_use_the_ops_port(
    stack: Stack, first: Authority, second: Authority
) -> None:
    install(stack, first)
    stack.environment["STOCKHOOK_INGEST_CLIENT_CA_FILE"] = str(second.ca)
    ingest = stack.start("ingest")
    await until(lambda: is_listening(stack, first, second), "it listens")

    assert not await is_listening(stack, first)
    async with sender(stack, first, shown=second) as client:
        answer = await client.post("/webhooks/ovoko", content=body(order_created(1)))
    assert answer.status_code == 200
    status = stack.run("status", "--json", STOCKHOOK_OPS_PORT=str(ingest.ops_port))
    assert json.loads(status.stdout)["ingest"] == "publishing"
    under_run = stack.run("status", "--json", STOCKHOOK_OPS_PORT=str(ingest.ops_port - 1))
    assert json.loads(under_run.stdout)["ingest"] == "publishing"


async def test_without_a_usable_certificate_the_ingest_does_not_start(stack: Stack, first: Authority) -> None:
    install(stack, first)
    (stack.folder / "tls.key").write_text("no key")
    refused = stack.run("ingest")

    assert refused.returncode == 78
    assert "STOCKHOOK_INGEST_KEY_FILE" in refused.stderr
    assert "Traceback" not in refused.stderr
