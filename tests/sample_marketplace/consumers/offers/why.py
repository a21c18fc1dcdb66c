"""Which rule made an offer's event count, in words."""

from consumers.family import Event
from consumers.offers.decide import Offer, OfferPayload, decide


def why(known: Offer | None, event: Event[OfferPayload]) -> str:
    """The rule by which `decide` takes an event or leaves it."""
    if known is None:
        return "the first event that is known"
    return "the newest event wins" if decide(known, event).state != known else "a newer event is known"
