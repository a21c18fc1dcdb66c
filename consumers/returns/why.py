"""Which rule made a return's event count, in words."""

from consumers.family import Event
from consumers.returns.decide import Return
from schemas.ovoko import ReturnCreated, ReturnUpdated


def why(known: Return | None, event: Event[ReturnCreated | ReturnUpdated]) -> str:
    """The rule by which `decide` takes an event or leaves it."""
    instant = event.payload.timestamp
    match event.payload:
        case ReturnCreated():
            if known is None or known.opened_at is None:
                return "the first creation that is known"
            if instant < known.opened_at:
                return "the earliest creation stands, and this one is earlier"
            return "the earliest creation stands, and an earlier one is known"
        case ReturnUpdated():
            if known is None or known.updated_at is None:
                return "the first update that is known"
            if instant > known.updated_at:
                return "each update counts, and the newest says when"
            return "each update counts, but a newer one says when"
