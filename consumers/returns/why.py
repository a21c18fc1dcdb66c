"""Which rule made a return's event count, in words."""

from consumers.family import Event
from consumers.returns.decide import Return, ReturnPayload, decide
from schemas.ovoko import ReturnCreated, ReturnObserved, ReturnUpdated


def why(known: Return | None, event: Event[ReturnPayload]) -> str:
    """The rule by which `decide` takes an event or leaves it."""
    instant = event.instant
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
        case ReturnObserved():
            if not event.payload.event_data.is_listed:
                is_gone = decide(known, event).state.is_gone
                return (
                    "it is not listed any more" if is_gone else "it was not listed, but a newer sign is known"
                )
            if known is not None and known.seen_at is not None and instant < known.seen_at:
                return "what was seen last stands, and it was seen later"
            return "what was seen last stands"
