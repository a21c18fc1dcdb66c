"""Canaries: no token and no bank account is stored unencrypted."""

import json
from pathlib import Path

from cryptography.fernet import Fernet

from consumers.registry import FAMILY_OF
from schemas.events import routing_key
from schemas.examples import as_printed, documented
from tests.support.stack import BUYBACK_TOKEN, OVOKO_SECRET, Stack, until
from worker.amqp.topology import topology

IBAN = "DE89370400440532013000"
CUSTOMER = "canary-customer@example.com"


def canaries(body: bytes) -> bytes:
    return body.replace(b'"accountNumber":"TESTE"', f'"accountNumber":"{IBAN}"'.encode()).replace(
        b"customer@trade-in.com", CUSTOMER.encode()
    )


async def everything_stored(stack: Stack, services_state: Path) -> dict[str, bytes]:
    """The content of every table, queue and log."""
    tables = await stack.fetch(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    )
    stored: dict[str, bytes] = {}
    for table in tables:
        name = table["table_name"]
        rows = await stack.fetch(f"SELECT * FROM {name}")
        # bytea as raw bytes, so that nothing is hidden in hexadecimal.
        stored[name] = b"\n".join(
            value if isinstance(value, bytes) else str(value).encode()
            for row in rows
            for value in row.values()
        )
    for queue in topology(stack.settings.delays).queues:
        if "x-single-active-consumer" in queue.arguments:
            continue  # its messages are in a table, and unacked
        while (message := await stack.get(queue.name)) is not None:
            stored[queue.name] = stored.get(queue.name, b"") + repr(message).encode() + message.body
    for worker in stack.workers:
        stored[worker.log.name] = worker.lines().encode()
    for log in services_state.glob("services*/log/*"):
        stored[log.name] = log.read_bytes()
    return stored


async def test_secrets_and_bank_details_are_stored_nowhere(stack: Stack) -> None:
    # Some are left in queues, some fail, some are quarantined, some are applied.
    ingest = await stack.started("ingest")
    for example in (*documented(), *as_printed()):
        assert (await stack.post(example.provider, canaries(example.body))).status_code == 200
    unknown = {"type": "OrderTeleportedEvent", "token": BUYBACK_TOKEN, "result": {"note": BUYBACK_TOKEN}}
    await stack.post_buyback(json.dumps(unknown).encode())
    broken_schema = {"type": "OrderCreatedEvent", "token": BUYBACK_TOKEN, "result": {"timestamp": CUSTOMER}}
    await stack.post_buyback(json.dumps(broken_schema).encode())
    refused = await stack.post_buyback(b'{"type":"x","token":"a-wrong-canary-token"}')
    await stack.started("consume", "inventory", "orders", "returns", "buybacks")

    types = [routing_key(example.provider, example.event_type) for example in documented()]
    expected = len([name for name in types if FAMILY_OF[name] != "reminders"])

    async def applied() -> bool:
        return await stack.count("event_log") == expected

    await until(applied, "the buybacks are applied, the reminders wait")
    assert ingest.stop() == 0
    assert refused.status_code == 401
    stored = await everything_stored(stack, stack.folder.parent)

    assert {"event_log", "buyback_orders", "stockhook.reminders", "stockhook.quarantine"} <= stored.keys()
    assert {"stockhook.buybacks.dead"} <= stored.keys()
    for place, content in stored.items():
        for canary in (BUYBACK_TOKEN, OVOKO_SECRET, IBAN, "a-wrong-canary-token"):
            assert canary.encode() not in content, f"{canary} in {place}"
        if place.endswith(".log"):
            assert CUSTOMER.encode() not in content, f"a customer in {place}"
    await check_encrypted(stack)


async def check_encrypted(stack: Stack) -> None:
    """Check that encrypted values can be decrypted with the key to the sent ones."""
    (row,) = await stack.fetch(
        "SELECT payment_details_encrypted, account_number_ending FROM buyback_orders "
        "WHERE payment_details_encrypted IS NOT NULL"
    )
    key = Fernet(stack.environment["STOCKHOOK_SEALING_KEYS"])

    assert IBAN in key.decrypt(row["payment_details_encrypted"]).decode()
    assert row["account_number_ending"] == IBAN[-4:]
