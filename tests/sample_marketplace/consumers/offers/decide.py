"""Decides whether an offer is for sale, and at which price."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from consumers.family import Decision, Event, implausible
from schemas.sample import OfferPublished, OfferWithdrawn

OfferPayload = OfferPublished | OfferWithdrawn


class Rule(StrEnum):
    FIRST = "first event of the offer"
    NEWEST = "the newest event wins, and this one is newer"
    OLDER = "the newest event wins, and an equal or newer one is known"


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
    stated = Offer(
        offer_id=payload.entity_id,
        is_for_sale=isinstance(payload, OfferPublished),
        price=payload.offer.price,
        occurred_at=event.instant,
        revision=known.revision if known else 0,
    )
    findings = implausible(event)
    if known is None:
        return Decision(stated, (Rule.FIRST,), findings)
    if _rank(stated) > _rank(known):
        return Decision(stated, (Rule.NEWEST,), findings)
    return Decision(known, (Rule.OLDER,), findings)


def _rank(offer: Offer) -> tuple[datetime, bool, bool, Decimal]:
    return offer.occurred_at, not offer.is_for_sale, offer.price is not None, offer.price or Decimal(0)
