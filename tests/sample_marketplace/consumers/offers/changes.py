"""The published fields of an offer."""

from consumers.offers.decide import Offer
from schemas.changes import OfferState


def change_type(before: Offer | None, after: Offer) -> str:
    return "offer.published" if after.is_for_sale else "offer.withdrawn"


def public_state(offer: Offer) -> OfferState:
    return OfferState(offer.offer_id, offer.is_for_sale, offer.price)
