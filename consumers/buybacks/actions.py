"""What a trade-in's events call for at the platform."""

from consumers.buybacks.decide import BuybackOrder
from consumers.buybacks.record import instant_of
from consumers.buybacks.statement import Buyback
from consumers.family import Event
from schemas.actions import REREQUEST_PICKUP, Action, PickupAgain
from schemas.buyback import PickupMissed


def required_actions(_: BuybackOrder | None, event: Event[Buyback]) -> tuple[Action, ...]:
    """After a missed pickup the platform asks for a new pickup request (docs/providers.md).

    Each item of an order may tell of the same pickup: the order and the time make the key.
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
            request=PickupAgain(order_id=order_id, missed_at=event.instant),
            event_id=event.event_id,
        ),
    )
