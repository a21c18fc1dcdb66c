"""Events that a gateway signed, from the ingest to the tables, and the search by its ids."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from deploy.local.services import Services
from tests.e2e.test_dead_letters import ARCHIVING, BROKEN, WITHOUT_TYPE, archived_letters
from tests.support.events import body, part_changed, sold
from tests.support.fault_sql import REMOVE_FAULT, fail_writes
from tests.support.stack import Stack, http_client, until
from worker.config.gateway import read_key, read_scheme
from worker.intake.signature import sign
from worker.observability.exit_codes import USAGE

SECRET = "gateway-secret-0123456789"
OLDER = "older-gateway-secret-0123456789"


def evidence_of(event: str, attempt: int = 1) -> dict[str, str]:
    return {
        "gateway_event": event,
        "gateway_attempt": str(attempt),
        "gateway_request": f"req_{event}",
        "gateway_url": f"https://dashboard.hookdeck.com/events/{event}",
        "request_id": f"proxy-{event}",
    }


async def deliver(
    stack: Stack, content: bytes, evidence: Mapping[str, str], secret: str = SECRET, **headers: str
) -> int:
    scheme = read_scheme("hookdeck")
    given = {
        **sign(scheme, [read_key(scheme, secret)], content, sent_at=datetime.now(UTC)),
        "x-hookdeck-eventid": evidence["gateway_event"],
        "x-hookdeck-attempt-count": evidence["gateway_attempt"],
        "x-hookdeck-requestid": evidence["gateway_request"],
        "x-hookdeck-event-url": evidence["gateway_url"],
        "x-request-id": evidence["request_id"],
        **headers,
    }
    async with http_client() as client:
        return (await client.post(f"{stack.url}/webhooks/ovoko", content=content, headers=given)).status_code


def output_of(stack: Stack, *arguments: str) -> Any:
    result = stack.run(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def behind(stack: Stack) -> Stack:
    """The gateway drops the marketplace's own header."""
    stack.environment |= ARCHIVING | {
        "STOCKHOOK_GATEWAY": "hookdeck",
        "STOCKHOOK_GATEWAY_SECRETS": f"{SECRET},{OLDER}",
        "STOCKHOOK_GATEWAY_REQUIRE": "gateway",
        # The test is a trusted proxy, because the ingest ignores X-Request-Id from other senders.
        "STOCKHOOK_TRUSTED_PROXIES": "127.0.0.1",
        "STOCKHOOK_OVOKO_SECRETS": "",
        "STOCKHOOK_BUYBACK_TOKENS": "",
    }
    return stack


async def logged(stack: Stack, events: int) -> None:
    async def are() -> bool:
        return await stack.count("event_log") == events

    await until(are, f"{events} events are logged")


async def test_explain_accepts_each_id_of_the_gateway(behind: Stack) -> None:
    await behind.started_apart()
    evidence = evidence_of("evt_1", attempt=3)
    assert await deliver(behind, sold("13", 1), evidence) == 200
    assert await deliver(behind, sold("14", 2), evidence_of("evt_2"), secret=OLDER) == 200
    await logged(behind, 2)

    for name, value in evidence.items():
        if name == "gateway_attempt":
            continue
        explanation = output_of(behind, "explain", "--gateway-id", value)
        assert (explanation["kind"], explanation["entity_id"]) == ("part", "13")
        assert [event["evidence"] for event in explanation["events"]] == [evidence]
    shown = behind.run("explain", "part", "13").stdout
    assert "gateway event: evt_1" in shown
    unknown = behind.run("explain", "--gateway-id", "3")
    assert unknown.returncode == 1
    assert "no event in the event log has the gateway's id 3" in unknown.stderr
    assert behind.run("explain", "part", "--gateway-id", "evt_1").returncode == USAGE
    assert behind.run("explain").returncode == USAGE


async def test_a_gateway_that_sends_again_makes_no_second_event(behind: Stack) -> None:
    await behind.started_apart()
    for attempt in (1, 2):
        content, evidence = sold("13", 1), evidence_of(f"evt_{attempt}", attempt)
        assert await deliver(behind, content, evidence) == 200
    assert await deliver(behind, sold("14", 2), evidence_of("evt_3")) == 200
    await logged(behind, 2)

    [event] = output_of(behind, "explain", "part", "13")["events"]
    assert event["evidence"] == evidence_of("evt_1", 1)


async def test_dead_list_accepts_each_id_of_the_gateway(behind: Stack) -> None:
    await behind.started_apart()
    assert await deliver(behind, BROKEN, evidence_of("evt_1")) == 200
    assert await deliver(behind, WITHOUT_TYPE, evidence_of("evt_2")) == 200
    await archived_letters(behind, 2)

    for event in ("evt_1", "evt_2"):
        evidence = evidence_of(event)
        for name, value in evidence.items():
            letters = output_of(behind, "dead", "list", "--gateway-id", value)
            assert [letter["evidence"] for letter in letters] == (
                [] if name == "gateway_attempt" else [evidence]
            )
    [letter] = output_of(behind, "dead", "list", "--gateway-id", "evt_1")
    shown = behind.run("dead", "show", str(letter["dead_letter_id"])).stdout
    assert "https://dashboard.hookdeck.com/events/evt_1" in shown
    groups = output_of(behind, "dead", "list", "--group", "--gateway-id", "req_evt_2")
    assert [(group["origin"], group["letters"]) for group in groups] == [("quarantine", 1)]


async def test_the_ids_outlive_retries_death_and_replay(behind: Stack) -> None:
    behind.environment["STOCKHOOK_RETRY_DELAYS"] = "1"
    await behind.execute(fail_writes("parts"))
    try:
        await behind.started_apart()
        assert await deliver(behind, sold("13", 1), evidence_of("evt_1")) == 200
        await archived_letters(behind, 1)
    finally:
        await behind.execute(REMOVE_FAULT)
    assert behind.run("dead", "replay", "--gateway-id", "evt_1").returncode == 0
    await logged(behind, 1)

    [event] = output_of(behind, "explain", "--gateway-id", "evt_1")["events"]
    assert (event["event_id"], event["evidence"]) == (
        "00000000-0000-4000-8000-000000000001",
        evidence_of("evt_1"),
    )


async def test_the_ids_outlive_the_spool(behind: Stack, services: Services) -> None:
    node = services.rabbitmq
    assert node is not None
    ingest = await behind.started("ingest")
    node.kill()
    try:
        assert await deliver(behind, sold("13", 1), evidence_of("evt_1")) == 200
        assert await deliver(behind, sold("14", 2), {**evidence_of("e"), "request_id": "r" * 600}) == 200
        ingest.kill()
    finally:
        await asyncio.to_thread(node.start)
    await behind.started_apart()
    await logged(behind, 2)

    [event] = output_of(behind, "explain", "part", "13")["events"]
    assert event["evidence"] == evidence_of("evt_1")
    [cut] = output_of(behind, "explain", "part", "14")["events"]
    assert cut["evidence"]["request_id"] == "r" * 512


async def test_nothing_without_the_signature_is_stored_and_the_secret_can_be_rotated(behind: Stack) -> None:
    ingest = await behind.started("ingest")
    content = body(part_changed("13", number=1))
    async with http_client() as client:
        for headers in ({}, {"x-webhook-secret": ""}, {"x-hookdeck-signature": "A" * 44}):
            answer = await client.post(f"{behind.url}/webhooks/ovoko", content=content, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["content-type"] == "application/problem+json"
            assert "The gateway's signature is " in answer.json()["detail"]
    for secret, status in ((SECRET, 200), (OLDER, 200), ("another-secret-0123456789", 401)):
        assert await deliver(behind, content, evidence_of("evt_1"), secret) == status
    doubled = {"x-hookdeck-signature-2": "A" * 43 + "=, " + "A" * 43 + "="}
    assert await deliver(behind, content, evidence_of("evt_1"), **doubled) == 401

    text = (await behind.ops(ingest.ops_port, "/metrics")).text
    for line in (
        'stockhook_gateway_unsigned_total{provider="ovoko",reason="missing"} 2.0',
        'stockhook_gateway_unsigned_total{provider="ovoko",reason="malformed"} 1.0',
        'stockhook_gateway_unsigned_total{provider="ovoko",reason="wrong"} 1.0',
        'stockhook_gateway_unsigned_total{provider="ovoko",reason="doubled"} 1.0',
        'stockhook_gateway_secret_used_total{position="newest",provider="ovoko"} 1.0',
        'stockhook_gateway_secret_used_total{position="older",provider="ovoko"} 1.0',
    ):
        assert line in text
    assert (await behind.depths()) == {"stockhook.inventory": 2}
