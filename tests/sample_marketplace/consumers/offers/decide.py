"""Whether an offer is for sale, and at which price."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from consumers.family import Decision, Event, implausible
from schemas.sample import OfferPublished, OfferWithdrawn

OfferPayload = OfferPublished | OfferWithdrawn


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer's row."""

    offer_id: str
    is_for_sale: bool
    price: Decimal | None
    occurred_at: datetime
    revision: int = 0


def decide(known: Offer | None, event: Event[OfferPayload]) -> Decision[Offer]:
    """The newest event wins; of two at one instant, the withdrawal, and then the higher price."""
    payload = event.payload
    told = Offer(
        offer_id=payload.entity_id,
        is_for_sale=isinstance(payload, OfferPublished),
        price=payload.offer.price,
        occurred_at=event.instant,
        revision=known.revision if known else 0,
    )
    state = told if known is None else max(known, told, key=_rank)
    return Decision(state, findings=implausible(event))


def _rank(offer: Offer) -> tuple[datetime, bool, bool, Decimal]:
    return offer.occurred_at, not offer.is_for_sale, offer.price is not None, offer.price or Decimal(0)
