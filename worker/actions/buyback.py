"""Actions at the buyback platform: its five endpoints for sellers, and the repeated pickup request."""

from collections.abc import Collection
from datetime import UTC, datetime
from functools import partial

from consumers.buybacks.status import MISSED_PICKUP
from consumers.family import Connection
from schemas.actions import REREQUEST_PICKUP, ActionRequest, RepeatPickupRequest
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

# Requests that may have been sent since the pickup was missed, by an event or by a person. The margin of 10
# minutes covers a difference between the clocks: no pickup is missed within minutes of its request.
REQUESTED_SINCE = """
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
    """A request that contains only the order."""

    order_id: str


class PickupOfOrder(OfOrder):
    """A pickup in one of these slots."""

    pickup: PickupRequest


class PaymentOfOrder(OfOrder):
    """The payment details for an order."""

    details: PaymentDetails


async def _shipment_capabilities(attempt: Attempt[OfOrder]) -> Performed:
    seller = await attempt.clients.get(open_seller)
    answer = await seller.shipment_capabilities(attempt.request.order_id)
    return Done(answer.read.model_dump(mode="json"))


async def _pickup_capabilities(attempt: Attempt[OfOrder]) -> Performed:
    seller = await attempt.clients.get(open_seller)
    answer = await seller.pickup_capabilities(attempt.request.order_id)
    return Done(answer.read.model_dump(mode="json"))


async def _request_pickup(attempt: Attempt[PickupOfOrder]) -> Performed:
    request = attempt.request
    seller = await attempt.clients.get(open_seller)
    await attempt.mark_started()
    accepted = await seller.request_pickup(request.order_id, request.pickup)
    return Done({"status": accepted.status})


async def _request_dropoff(attempt: Attempt[OfOrder]) -> Performed:
    seller = await attempt.clients.get(open_seller)
    await attempt.mark_started()
    accepted = await seller.request_dropoff(attempt.request.order_id, DropoffRequest())
    return Done({"status": accepted.status})


async def _send_payment_details(attempt: Attempt[PaymentOfOrder]) -> Performed:
    """May be repeated: the result is the same."""
    request = attempt.request
    seller = await attempt.clients.get(open_seller)
    accepted = await seller.send_payment_details(request.order_id, request.details)
    return Done({"status": accepted.status})


async def _rerequest_pickup(attempt: Attempt[RepeatPickupRequest]) -> Performed:
    """Request the first offered slot, unless the order's status changed or a pickup was requested since."""
    missed = attempt.request
    async with attempt.database.connection() as connection:
        status = await connection.fetchval(STATUS, missed.order_id)
    if status != MISSED_PICKUP:
        return NotNeeded(f"the order's status is now {status}")
    seller = await attempt.clients.get(open_seller)
    slots = (await seller.pickup_capabilities(missed.order_id)).read.slots
    slot = first(slots, datetime.now(UTC))
    if slot is None:
        raise Unavailable("the platform offers no slot for a pickup")
    request = PickupRequest(slots=(slot,))
    if not await attempt.mark_started(partial(_none_requested_since, missed)):
        return NotNeeded("a pickup was requested since the one that was missed")
    accepted = await seller.request_pickup(missed.order_id, request)
    return Done({"status": accepted.status, **request.model_dump(mode="json")})


def first(slots: Collection[Slot], now: datetime) -> Slot | None:
    """The earliest future slot; the order of the slots does not matter."""
    coming = [slot for slot in slots if slot.initial_slot > now]
    return min(coming, key=lambda slot: (slot.initial_slot, slot.final_slot), default=None)


async def _none_requested_since(request: RepeatPickupRequest, connection: Connection) -> bool:
    return not await connection.fetch(REQUESTED_SINCE, request.order_id, list(PICKUPS), request.missed_at)


def _is_enabled(settings: Settings) -> bool:
    return settings.rerequest_pickup == "first_slot"


KINDS: tuple[AnyKind, ...] = (
    Kind(REREQUEST_PICKUP, RepeatPickupRequest, _rerequest_pickup, is_enabled=_is_enabled),
    Kind(SHIPMENT_CAPABILITIES, OfOrder, _shipment_capabilities),
    Kind(PICKUP_CAPABILITIES, OfOrder, _pickup_capabilities),
    Kind(PICKUP_REQUEST, PickupOfOrder, _request_pickup),
    Kind(DROPOFF_REQUEST, OfOrder, _request_dropoff),
    Kind(PAYMENT_DETAILS, PaymentOfOrder, _send_payment_details, is_private=True),
)
