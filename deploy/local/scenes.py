"""The scenes of the demo: a buyback order until its payment, and a part that is sold and returned."""

import asyncio
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
from rich.console import Console

from deploy.local.run import STOCKHOOK
from deploy.local.services import CHECKOUT

# On an idle machine, the effect appears within a second.
PATIENCE_SECONDS = 30.0
COMMAND_SECONDS = 60.0
WIDTH = 110

PART_ID = 13

DETAILS = {
    "firstName": "Ana",
    "lastName": "Silva",
    "bankAccount": {
        "accountNumber": "PT00000000000000000000000",
        "financialInstitutionIdentifier": "EXAMPLE0",
        "beneficiaryName": "Ana Silva",
    },
    "billingAddress": {
        "firstLine": "Example Street 1",
        "zipCode": "1000-001",
        "city": "Lisboa",
        "country": "PT",
    },
}

BUYBACK_ORDER_IS = "SELECT status = $2 FROM buyback_orders WHERE order_id = $1"
RESCHEDULED = """
SELECT count(*) = 2
FROM buyback_shipments
JOIN buyback_orders USING (order_id)
WHERE order_id = $1 AND status = 'pickup_scheduled'
"""
MISSED_IS_RECORDED = (
    "SELECT count(*) > 0 FROM communications WHERE order_id = $1 AND kind = 'missed_collection'"
)
REQUESTED_AGAIN = "SELECT state = 'done' FROM actions WHERE subject = $1 AND outcome->>'status' IS NOT NULL"
PAID = "SELECT account_number_ending IS NOT NULL FROM buyback_orders WHERE order_id = $1"
PART_IS = "SELECT status = $2 FROM parts WHERE part_id = $1"
PART_IS_DESCRIBED = """
SELECT name = $2 AND price = $3::text::numeric
FROM parts
WHERE part_id = $1
"""
RETURN_IS_FILLED_IN = """
SELECT returned.total_returnable_amount = $2::text::numeric AND item.part_id = $3
FROM returns AS returned
JOIN return_items AS item USING (return_id)
WHERE return_id = $1
"""
NOTHING_IS_DUE = "SELECT count(*) = 0 FROM actions WHERE state IN ('due', 'doing')"
RETURN_IS_OPEN = "SELECT opened_at IS NOT NULL FROM returns WHERE return_id = $1"


class SceneFailed(Exception):
    """An expected effect did not happen; the message names it."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The environment of the scenes: the product's settings, addresses of the simulators, and console."""

    console: Console
    settings: Mapping[str, str]
    marketplaces_url: str
    gateway_url: str

    def scene(self, title: str) -> None:
        self.console.print()
        self.console.rule(f"[bold]{title}", align="left")

    def say(self, words: str) -> None:
        self.console.print(words, markup=False, highlight=False)

    def command(self, *arguments: str, stdin: str | None = None) -> None:
        """Run `stockhook`, and show the command with its output.

        Raises:
            SceneFailed: The exit code was not 0.
        """
        self.console.print(f"\n  $ stockhook {' '.join(arguments)}", style="bold cyan", markup=False)
        done = subprocess.run(
            [STOCKHOOK, *arguments],
            env={**os.environ, **self.settings, "COLUMNS": str(WIDTH)},
            cwd=CHECKOUT,
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        for line in done.stdout.splitlines():
            self.console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        self.console.print()
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()[-1:]
            raise SceneFailed(f"stockhook {arguments[0]} ended with {done.returncode}: {' '.join(said)}")

    async def at_marketplace(self, path: str, document: object = None) -> Any:
        """Let something happen at a marketplace, and return its new state there.

        Raises:
            SceneFailed
        """
        return await self._asked("POST", f"{self.marketplaces_url}/{path}", document)

    async def at_gateway(self, method: str, path: str) -> Any:
        """The answer of the gateway's control path.

        Raises:
            SceneFailed
        """
        return await self._asked(method, f"{self.gateway_url}/control/{path}", None)

    async def _asked(self, method: str, url: str, document: object) -> Any:
        async with httpx.AsyncClient(trust_env=False) as client:
            response = await client.request(method, url, json=document)
        if not response.is_success:
            raise SceneFailed(f"{urlsplit(url).path.removeprefix('/')}: {response.text}")
        return response.json()

    async def until(self, what: str, query: str, *arguments: object) -> None:
        """Wait until the query returns true, and print the sentence.

        Raises:
            SceneFailed
        """
        began = monotonic()
        connection = await asyncpg.connect(self.settings["STOCKHOOK_DATABASE_URL"])
        try:
            while not await connection.fetchval(query, *arguments):
                if monotonic() > began + PATIENCE_SECONDS:
                    raise SceneFailed(f"not within {PATIENCE_SECONDS:.0f} s: {what}")
                await asyncio.sleep(0.05)
        finally:
            await connection.close()
        self.console.print(f"  -> {what}", style="green", markup=False, highlight=False)


async def play(stage: Stage) -> None:
    """Raises: SceneFailed."""
    order_id = await buyback_order(stage)
    await missed_pickup(stage, order_id)
    await payment(stage, order_id)
    await rotation(stage)
    await used_part(stage)
    stage.scene("An overview of everything")
    await delivered(stage)
    stage.command("status")
    stage.say("The audit accounts for every accepted event:")
    stage.command("audit")


async def buyback_order(stage: Stage) -> str:
    """Create an order and request its pickup; return the order's id."""
    stage.scene("1. A buyback order begins")
    stage.say(
        "All webhooks arrive through a webhook gateway, a simulated Hookdeck. The gateway signs each, and\n"
        "the ingest verifies this signature and the marketplace's own secret.\n\n"
        "A customer of the buyback platform accepts an offer. Its webhook (OrderCreatedEvent) arrives:"
    )
    order_id = str((await stage.at_marketplace("buyback/control/orders", {"paymentType": "Cash"}))["id"])
    await stage.until(f"order {order_id} is created", BUYBACK_ORDER_IS, order_id, "created")
    stage.say("\nAs the seller, we request the courier's slots and choose the first one:")
    stage.command("buyback", "pickup-request", order_id, "--offered", "1")
    stage.say("The platform reports the result with a webhook (CollectionItemPickUpScheduledEvent):")
    await stage.until("the pickup is scheduled", BUYBACK_ORDER_IS, order_id, "pickup_scheduled")
    return order_id


async def missed_pickup(stage: Stage, order_id: str) -> None:
    stage.scene("2. The pickup is missed, and requested again")
    stage.say(
        "The customer was not at home (CollectionItemPickupMissedEvent). A new pickup has to be requested.\n"
        "With STOCKHOOK_REREQUEST_PICKUP=first_slot Stockhook does this automatically:"
    )
    await stage.at_marketplace(f"buyback/control/orders/{order_id}/miss")
    await stage.until("a communication about the missed collection is recorded", MISSED_IS_RECORDED, order_id)
    await stage.until("an action requested a new pickup", REQUESTED_AGAIN, order_id)
    await stage.until("the new pickup is scheduled, with its own shipment", RESCHEDULED, order_id)
    stage.command("actions", "list", "--subject", order_id)


async def payment(stage: Stage, order_id: str) -> None:
    stage.scene("3. From the courier to the payment")
    await stage.at_marketplace(f"buyback/control/orders/{order_id}/collect")
    await stage.until("the courier has the item", BUYBACK_ORDER_IS, order_id, "in_transit")
    order = await stage.at_marketplace(f"buyback/control/orders/{order_id}/receive")
    await stage.until("the warehouse has the item", BUYBACK_ORDER_IS, order_id, "processing")
    for _ in order["items"]:
        await stage.at_marketplace(f"buyback/control/orders/{order_id}/pass")
    stage.say("\nEach item passed the quality check. The payment details are read from standard input:")
    stage.command("buyback", "payment-details", order_id, "--file", "-", stdin=json.dumps(DETAILS))
    await stage.until("the order is closed", BUYBACK_ORDER_IS, order_id, "closed")
    await stage.until(
        "the bank account is stored encrypted, its last four characters in clear", PAID, order_id
    )
    stage.say("\nEach event of the order, its effect, and the rule that applied:")
    stage.command("explain", "buyback", order_id)


async def rotation(stage: Stage) -> None:
    stage.scene("4. The gateway's secret is rotated")
    keys = (await stage.at_gateway("POST", "rotate"))["keys"]
    stage.say(
        f"From now on each webhook has {keys} signatures: with the new secret and with the old one. The\n"
        "ingest has only the old secret yet, and refuses none of the following webhooks."
    )


async def delivered(stage: Stage) -> None:
    """Raises: SceneFailed."""
    end = monotonic() + PATIENCE_SECONDS
    state = await stage.at_gateway("GET", "state")
    while state["waiting"] and monotonic() < end:
        await asyncio.sleep(0.05)
        state = await stage.at_gateway("GET", "state")
    if state["delivered"] != state["accepted"] or set(state["answers"]) != {"200"}:
        raise SceneFailed(
            f"the gateway delivered {state['delivered']} of {state['accepted']} webhooks, and was answered "
            f"{state['answers']}"
        )
    stage.say(f"The gateway accepted {state['accepted']} webhooks, and the ingest answered each with 200.")


async def used_part(stage: Stage) -> None:
    stage.scene("5. A used part is sold and returned")
    part = await stage.at_marketplace(f"ovoko/control/parts/{PART_ID}/in_warehouse")
    stage.say(f"Part {PART_ID} ({part['name']}, {part['price']} {part['currency']}) is listed at Ovoko.")
    await stage.until("the part can be sold", PART_IS, str(PART_ID), "in_warehouse")
    stage.say("\nThe event did not describe the part. Stockhook fetched the details from Ovoko's API:")
    described = (str(PART_ID), part["name"], part["price"])
    await stage.until("name and price are in the part's row", PART_IS_DESCRIBED, *described)
    stage.say("")
    order = await stage.at_marketplace("ovoko/control/orders", {"part_ids": [PART_ID]})
    await stage.until("a customer ordered it: it is reserved", PART_IS, str(PART_ID), "reserved")
    await stage.at_marketplace(f"ovoko/control/orders/{order['id']}/ship")
    await stage.until("it is sold", PART_IS, str(PART_ID), "sold")
    stage.say("\nIt does not fit, so the customer opens a return. Ovoko's event has only two ids:")
    return_id = str((await stage.at_marketplace(f"ovoko/control/orders/{order['id']}/return"))["return_id"])
    await stage.until(f"return {return_id} is open", RETURN_IS_OPEN, return_id)
    filled_in = (return_id, part["price"], str(PART_ID))
    await stage.until("the API returned the items and their amounts", RETURN_IS_FILLED_IN, *filled_in)
    stage.say("")
    await stage.at_marketplace(f"ovoko/control/returns/{return_id}/receive")
    await stage.until("the part was received back", PART_IS, str(PART_ID), "returned")
    await stage.at_marketplace(f"ovoko/control/returns/{return_id}/accept")
    await stage.until("it is in the warehouse, for sale again", PART_IS, str(PART_ID), "in_warehouse")
    await stage.until("no action is left to execute", NOTHING_IS_DUE)
    stage.say("\nThe history of the part and of its return:")
    stage.command("explain", "part", str(PART_ID))
    stage.command("explain", "return", return_id)
