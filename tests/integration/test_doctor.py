"""Doctor on real services that are well, and that are not."""

import base64
import json
from itertools import count
from typing import Any

import pytest

from deploy.local.services import Services
from tests.support.stack import OVOKO_SECRET, Stack, free_port, until
from worker.amqp.topology import Queue

# The services of tests save nothing to disk in earnest.
OF_TESTS = {"durability"}


def examined(stack: Stack, **overrides: str) -> tuple[int, list[dict[str, Any]]]:
    found = stack.run("doctor", "--json", **overrides)
    assert found.returncode in (0, 1, 69), found.stderr
    assert "Traceback" not in found.stderr
    findings: list[dict[str, Any]] = json.loads(found.stdout)["findings"]
    return found.returncode, findings


def errors(findings: list[dict[str, Any]]) -> list[str]:
    return [
        finding["what"]
        for finding in findings
        if finding["level"] == "error" and finding["subject"] not in OF_TESTS
    ]


async def test_a_stack_that_is_well_has_no_errors(stack: Stack) -> None:
    _, findings = examined(stack)
    people = stack.run("doctor", COLUMNS="160")
    stack.environment.pop("STOCKHOOK_MANAGEMENT_URL", None)
    _, without_management = examined(stack)
    well = {finding["subject"] for finding in findings if finding["level"] == "ok"}

    assert errors(findings) == []
    assert errors(without_management) == []
    assert {
        "topology",
        "publishing",
        "queues",
        "database version",
        "migrations",
        "connections",
        "event log",
        "secrets",
        "sealing keys",
        "spool",
        "clock",
    } <= well
    assert all(finding["remedy"] for finding in findings if finding["level"] != "ok")
    assert "the broker confirms" in people.stdout
    for text in (people.stdout, json.dumps(findings)):
        assert OVOKO_SECRET not in text
        assert stack.environment["STOCKHOOK_SEALING_KEYS"] not in text
        assert stack.environment["STOCKHOOK_AMQP_URL"].split("@")[0].rpartition(":")[2] not in text


async def test_what_is_missing_or_odd_is_an_error_with_a_remedy(stack: Stack) -> None:
    await stack.delete_queue("stockhook.orders.retry.2s")
    await stack.delete_queue("stockhook.orders.dead")
    async with stack.broker.connection() as link:
        channel = await link.channel()
        await channel.declare_item(
            Queue("stockhook.orders.dead", {"x-queue-type": "quorum", "x-max-length": 5})
        )
    try:
        code, findings = examined(
            stack,
            STOCKHOOK_OVOKO_SECRETS="hunter2",
            STOCKHOOK_SPOOL_PATH="/proc/nowhere/spool.sqlite3",
            STOCKHOOK_SEALING_KEYS="",
        )
    finally:
        await stack.delete_queue("stockhook.orders.dead")
    found = "\n".join(errors(findings))

    assert code == 1
    assert "queue stockhook.orders.retry.2s is missing" in found
    assert "x-max-length" in found
    assert "STOCKHOOK_OVOKO_SECRETS: secret 1 is shorter than 12 characters" in found
    assert "hunter2" not in json.dumps(findings)
    assert any("/webhooks/buyback is disabled" in finding["what"] for finding in findings)


async def test_a_database_without_tables(stack: Stack, fresh_database: str) -> None:
    code, findings = examined(stack, STOCKHOOK_DATABASE_URL=fresh_database)

    assert code == 1
    assert any(what.startswith("missing: 0001_event_log, ") for what in errors(findings))


async def test_events_outside_any_month_and_keys_that_open_nothing(stack: Stack) -> None:
    await stack.execute(
        "INSERT INTO event_log (event_id, provider, type, family, entity_id, occurred_at, received_at, "
        "applied_at, body) VALUES (gen_random_uuid(), 'ovoko', 'x', 'orders', '1', now(), now(), "
        "now() + interval '9 years', '')"
    )
    await stack.execute(
        "INSERT INTO buyback_orders (order_id, payment_details_encrypted, stamps, revision) "
        "VALUES ('1', 'gAAAAAodd', '{}', 1)"
    )
    _, findings = examined(stack)
    said = {finding["what"] for finding in findings if finding["level"] != "ok"}

    assert "event_log_rest contains events: their month had no partition when they were applied" in said
    assert "none of the keys decrypts the private data in the database" in said


def subscribers(**urls: str) -> str:
    """Each with a secret of its own."""
    secrets = (f"whsec_{base64.b64encode(bytes(range(first, first + 24))).decode()}" for first in count())
    return json.dumps(
        [
            {"name": name, "url": url, "secret": secret}
            for (name, url), secret in zip(urls.items(), secrets, strict=False)
        ]
    )


async def test_where_subscribers_to_changes_lead_and_what_waits_is_said(stack: Stack) -> None:
    told = {
        "STOCKHOOK_CHANGES_WEBHOOKS": subscribers(
            inside="https://localhost/hooks",
            outside="https://203.0.113.7/hooks",
            nowhere="https://nowhere.invalid/hooks",
            shop="https://9.9.9.9/hooks",
        )
    }
    await stack.execute(
        "INSERT INTO changes (family, size, changes, changed_at) "
        "VALUES ('orders', 3, '', now() - interval '5 minutes');"
        "INSERT INTO change_counts VALUES ('orders', 'committed', 0, 3)"
    )
    _, findings = examined(stack, **told)
    _, off = examined(stack, **told, STOCKHOOK_CHANGES="false")
    meant = examined(stack, **told, STOCKHOOK_CHANGES_PRIVATE_TARGETS="true")[1]
    await stack.execute("TRUNCATE changes, change_counts")

    levels = {
        finding["what"].partition(", the oldest")[0]: finding["level"]
        for finding in findings
        if finding["subject"] == "changes"
    }
    assert levels == {
        "inside (localhost) has the address 127.0.0.1, which is not public: nothing is posted there": "error",
        "outside (203.0.113.7) has the address 203.0.113.7, which is not public: "
        "nothing is posted there": "error",
        "nowhere (nowhere.invalid) cannot be resolved": "error",
        "shop (9.9.9.9) has the address 9.9.9.9": "ok",
        "3 wait to be published": "warning",
    }
    assert {"inside (localhost) has the address 127.0.0.1"} <= {finding["what"] for finding in meant}
    assert [finding["what"] for finding in off if "STOCKHOOK_CHANGES is false" in finding["what"]]
    assert [finding for finding in off if "does another process publish?" in finding["remedy"]]
    assert "hunter2" not in json.dumps(findings)
    assert base64.b64encode(b"hunter2-hunter2-hunter2-").decode() not in json.dumps(findings)


async def test_what_cannot_be_reached_is_said_and_the_rest_is_shown(stack: Stack) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    no_broker = {
        "STOCKHOOK_AMQP_URL": f"amqp://x:hunter2@{nowhere}/",
        "STOCKHOOK_MANAGEMENT_URL": f"http://x:hunter2@{nowhere}",
    }
    code, findings = examined(stack, **no_broker)
    neither, of_neither = examined(
        stack, **no_broker, STOCKHOOK_DATABASE_URL=f"postgresql://x:hunter2@{nowhere}/x"
    )

    assert code == 1
    assert any(finding["subject"] == "migrations" for finding in findings)
    assert neither == 69
    assert {finding["subject"] for finding in of_neither if finding["level"] == "error"} == {
        "management",
        "broker",
        "database",
    }
    assert any(finding["subject"] == "spool" for finding in of_neither)
    assert "hunter2" not in json.dumps(of_neither)


async def test_an_alarm_is_seen_over_amqp_and_by_the_management_api(stack: Stack, services: Services) -> None:
    if services.rabbitmq is None:
        pytest.skip("needs a RabbitMQ of our own")
    services.rabbitmq.ctl("set_vm_memory_high_watermark", "0")
    try:

        async def is_seen() -> bool:
            _, findings = examined(stack)
            found = " ".join(errors(findings))
            return "confirms nothing: an alarm is on" in found and "memory alarm" in found

        await until(is_seen, "the alarm is seen both ways", 40)
    finally:
        services.rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
