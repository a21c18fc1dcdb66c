"""Requests to Ovoko that a return's events require."""

from consumers.family import Event
from consumers.returns.decide import Return, ReturnPayload
from schemas.actions import RETURN_DETAILS, Action, ReturnDetailsRequest
from schemas.ovoko import ReturnObserved


def required_actions(_: Return | None, event: Event[ReturnPayload]) -> tuple[Action, ...]:
    """Events say that a return changed, not how. A return that is no longer listed has no details."""
    payload = event.payload
    if isinstance(payload, ReturnObserved) and not payload.event_data.is_listed:
        return ()
    return_id = payload.entity_id
    return (
        Action(
            kind=RETURN_DETAILS,
            # An event id alone is no key: two events of one return may share it.
            key=f"{RETURN_DETAILS}:{return_id}:{event.event_id}:{event.content_id}",
            subject=return_id,
            request=ReturnDetailsRequest(return_id=return_id),
            event_id=event.event_id,
        ),
    )
