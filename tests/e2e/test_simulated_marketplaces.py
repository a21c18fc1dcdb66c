"""The simulated marketplaces send webhooks that agree with their API; all run as processes."""

import json
from datetime import timedelta
from typing import Any

import httpx
from pydantic import SecretStr

from tests.support.stack import Stack, printed_settings, until
from worker.marketplaces.buyback.client import Account, selling
from worker.marketplaces.buyback.requests import PickupRequest


def account(simulated: dict[str, str]) -> Account:
    given = {name.removeprefix("STOCKHOOK_BUYBACK_").lower(): value for name, value in simulated.items()}
    return Account(
        api_url=given["api_url"],
        sts_url=given["sts_url"],
        client_id=given["client_id"],
        client_secret=SecretStr(given["client_secret"]),
        seller_id=given["seller_id"],
        real_ip=given["real_ip"],
    )


async def response_of(url: str, document: object = None) -> Any:
    async with httpx.AsyncClient() as client:
        response = await client.post(url, json=document)
    assert response.is_success, response.text
    return response.json()


async def became(stack: Stack, order_id: str, status: str) -> None:
    async def is_so() -> bool:
        rows = await stack.fetch("SELECT status FROM buyback_orders WHERE order_id = $1", order_id)
        return bool(rows) and rows[0]["status"] == status

    await until(is_so, f"order {order_id} is {status}")


async def test_a_request_to_a_marketplace_results_in_webhooks(stack: Stack) -> None:
    """An accepted pickup is scheduled; parts are equal on both sides."""
    await stack.started_apart()
    sending = ("--port", "0", "--send-to", stack.url, "--delay", "0.05")
    simulated = await printed_settings(stack.start("simulate", "marketplaces", *sending))
    buyback = f"{simulated['STOCKHOOK_BUYBACK_API_URL']}/control/orders"
    ovoko = f"{simulated['STOCKHOOK_OVOKO_API_URL']}/control"

    order_id = (await response_of(buyback))["id"]
    await became(stack, order_id, "created")
    async with selling(account(simulated), timedelta(seconds=10)) as seller:
        slot = (await seller.pickup_capabilities(order_id)).read.slots[0]
        await seller.request_pickup(order_id, PickupRequest(slots=(slot,)))
    await became(stack, order_id, "pickup_scheduled")
    await response_of(f"{buyback}/{order_id}/miss")
    await became(stack, order_id, "missed_pickup")

    await response_of(f"{ovoko}/parts/11/in_warehouse")
    await response_of(f"{ovoko}/parts/12/in_warehouse")
    number = (await response_of(f"{ovoko}/orders", {"part_ids": [11]}))["id"]
    await response_of(f"{ovoko}/orders/{number}/ship")
    await response_of(f"{ovoko}/orders/{number}/return")

    async def all_there() -> bool:
        sold = await stack.fetch("SELECT part_id FROM parts WHERE status = 'sold'")
        return len(sold) == 1 and await stack.count("returns") == 1 and await stack.count("parts") == 2

    await until(all_there, "a sold part and its return")
    [shipment] = await stack.fetch("SELECT pickup_starts_at, is_reschedule FROM buyback_shipments")
    parts = stack.run("reconcile", "ovoko", "parts", "--json", **simulated)

    assert shipment == {"pickup_starts_at": slot.initial_slot, "is_reschedule": False}
    assert await stack.count("findings") == 0
    assert (parts.returncode, json.loads(parts.stdout)["differences"]) == (0, []), parts.stderr


async def test_a_webhook_without_a_secret_to_send_it_with_is_a_sentence(stack: Stack) -> None:
    sending = ("simulate", "marketplaces", "--port", "0", "--send-to")
    no_token = stack.run(*sending, "http://127.0.0.1:9", STOCKHOOK_BUYBACK_TOKENS="")
    nowhere = stack.run(*sending, "elsewhere")

    assert (no_token.returncode, nowhere.returncode) == (78, 2)
    assert "STOCKHOOK_BUYBACK_TOKENS is not set" in no_token.stderr
    assert "the URL of the ingest must start with http:// or https://" in nowhere.stderr
