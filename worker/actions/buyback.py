"""What can be asked of the trade-in platform: its five endpoints for sellers, and a pickup once more."""

from collections.abc import Collection
from datetime import UTC, datetime
from functools import partial

from consumers.buybacks.status import MISSED_PICKUP
from consumers.family import Connection
from schemas.actions import REREQUEST_PICKUP, ActionRequest, PickupAgain
from worker.actions.types import (
    AnyKind,
    Attempt,
    Done,
    Kind,
    NotNeeded,
    Performed,
)
from worker.config.settings import Settings
from worker.marketplaces.buyback.client import open_seller
from worker.marketplaces.buyback.requests import (
    DropoffRequest,
    PaymentDetails,
    PickupRequest,
    Slot,
)
from worker.marketplaces.http import Unavailable

STATUS = """
SELECT status
FROM buyback_orders
WHERE order_id = $1
"""

# What may have been asked for since the pickup was missed, whoever had it asked for. Their clock need not
# agree with ours, and nothing that was just asked for is missed within minutes.
ASKED_SINCE = """
SELECT action_id
FROM actions
WHERE subject = $1
    AND kind = ANY($2::text[])
    AND state IN ('doing', 'done', 'unknown')
    AND started_at > $3::timestamptz - interval '10 minutes'
LIMIT 1
"""

SHIPMENT_CAPABILITIES = "buyback.shipment_capabilities"
PICKUP_CAPABILITIES = "buyback.pickup_capabilities"
PICKUP_REQUEST = "buyback.pickup_request"
DROPOFF_REQUEST = "buyback.dropoff_request"
PAYMENT_DETAILS = "buyback.payment_details"

PICKUPS = (REREQUEST_PICKUP, PICKUP_REQUEST)


class OfOrder(ActionRequest):
    """One that says no more than the order."""

    order_id: str


class PickupOfOrder(OfOrder):
    """A pickup at one of these slots."""

    pickup: PickupRequest


class PaymentOfOrder(OfOrder):
    """Whom to pay for an order."""

    details: PaymentDetails


async def _shipment_capabilities(attempt: Attempt[OfOrder]) -> Performed:
    seller = await attempt.clients.get(open_seller)
    told = await seller.shipment_capabilities(attempt.request.order_id)
    return Done(told.read.model_dump(mode="json"))


async def _pickup_capabilities(attempt: Attempt[OfOrder]) -> Performed:
    seller = await attempt.clients.get(open_seller)
    told = await seller.pickup_capabilities(attempt.request.order_id)
    return Done(told.read.model_dump(mode="json"))


async def _request_pickup(attempt: Attempt[PickupOfOrder]) -> Performed:
    asked = attempt.request
    seller = await attempt.clients.get(open_seller)
    await attempt.begin()
    taken = await seller.request_pickup(asked.order_id, asked.pickup)
    return Done({"status": taken.status})


async def _request_dropoff(attempt: Attempt[OfOrder]) -> Performed:
    seller = await attempt.clients.get(open_seller)
    await attempt.begin()
    taken = await seller.request_dropoff(attempt.request.order_id, DropoffRequest())
    return Done({"status": taken.status})


async def _give_payment_details(attempt: Attempt[PaymentOfOrder]) -> Performed:
    """May be repeated: the same details stand in the end."""
    asked = attempt.request
    seller = await attempt.clients.get(open_seller)
    taken = await seller.give_payment_details(asked.order_id, asked.details)
    return Done({"status": taken.status})


async def _rerequest_pickup(attempt: Attempt[PickupAgain]) -> Performed:
    """At the first slot that is offered, unless the order has moved on or somebody was faster."""
    asked = attempt.request
    async with attempt.database.connection() as connection:
        status = await connection.fetchval(STATUS, asked.order_id)
    if status != MISSED_PICKUP:
        return NotNeeded(f"the order's status is {status} by now")
    seller = await attempt.clients.get(open_seller)
    slots = (await seller.pickup_capabilities(asked.order_id)).read.slots
    slot = first(slots, datetime.now(UTC))
    if slot is None:
        raise Unavailable("no slot is offered for a pickup")
    request = PickupRequest(slots=(slot,))
    if not await attempt.begin(partial(_nobody_asked, asked)):
        return NotNeeded("a pickup was requested since the one that was missed")
    taken = await seller.request_pickup(asked.order_id, request)
    return Done({"status": taken.status, **request.model_dump(mode="json")})


def first(slots: Collection[Slot], now: datetime) -> Slot | None:
    """The earliest that is still to come, in whatever order they are offered."""
    coming = [slot for slot in slots if slot.initial_slot > now]
    return min(coming, key=lambda slot: (slot.initial_slot, slot.final_slot), default=None)


async def _nobody_asked(asked: PickupAgain, connection: Connection) -> bool:
    return not await connection.fetch(ASKED_SINCE, asked.order_id, list(PICKUPS), asked.missed_at)


def _is_wanted(settings: Settings) -> bool:
    return settings.rerequest_pickup == "first_slot"


KINDS: tuple[AnyKind, ...] = (
    Kind(REREQUEST_PICKUP, PickupAgain, _rerequest_pickup, is_called_for=_is_wanted),
    Kind(SHIPMENT_CAPABILITIES, OfOrder, _shipment_capabilities),
    Kind(PICKUP_CAPABILITIES, OfOrder, _pickup_capabilities),
    Kind(PICKUP_REQUEST, PickupOfOrder, _request_pickup),
    Kind(DROPOFF_REQUEST, OfOrder, _request_dropoff),
    Kind(PAYMENT_DETAILS, PaymentOfOrder, _give_payment_details, is_private=True),
)
