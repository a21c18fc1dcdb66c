"""Requests to the buyback platform that an order's events require."""

from consumers.buybacks.decide import BuybackOrder
from consumers.buybacks.lww import instant_of
from consumers.buybacks.normalize import Buyback
from consumers.family import Event
from schemas.actions import REREQUEST_PICKUP, Action, RepeatPickupRequest
from schemas.buyback import PickupMissed


def required_actions(_: BuybackOrder | None, event: Event[Buyback]) -> tuple[Action, ...]:
    """After a missed pickup the platform asks for a new pickup request (docs/providers.md).

    Each item of an order may report the same pickup: the order and the time make the key.
    """
    payload = event.payload
    if not isinstance(payload, PickupMissed):
        return ()
    order_id, missed_at = payload.entity_id, payload.occurred_at
    return (
        Action(
            kind=REREQUEST_PICKUP,
            key=f"{REREQUEST_PICKUP}:{order_id}:{instant_of(missed_at)}",
            subject=order_id,
            request=RepeatPickupRequest(order_id=order_id, missed_at=event.instant),
            event_id=event.event_id,
        ),
    )
