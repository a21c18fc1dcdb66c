"""What a return's events call for at Ovoko."""

from consumers.family import Event
from consumers.returns.decide import Return, ReturnPayload
from schemas.actions import RETURN_DETAILS, Action, ReturnWanted
from schemas.ovoko import ReturnObserved


def required_actions(_: Return | None, event: Event[ReturnPayload]) -> tuple[Action, ...]:
    """Its events say that something is new, and not what. What is not listed any more has nothing to tell."""
    payload = event.payload
    if isinstance(payload, ReturnObserved) and not payload.event_data.is_listed:
        return ()
    return_id = payload.entity_id
    return (
        Action(
            kind=RETURN_DETAILS,
            # An id is no key by itself: the same return may have two events under one.
            key=f"{RETURN_DETAILS}:{return_id}:{event.event_id}:{event.content_id}",
            subject=return_id,
            request=ReturnWanted(return_id=return_id),
            event_id=event.event_id,
        ),
    )
