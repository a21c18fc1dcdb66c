"""Requests to Ovoko that a part's events require."""

from consumers.family import Event
from consumers.inventory.part import Part
from schemas.actions import PART_DETAILS, Action, PartDetailsRequest
from schemas.ovoko import PartEvent


def required_actions(part: Part | None, event: Event[PartEvent]) -> tuple[Action, ...]:
    """The first event of a part, whichever it is, requests the part's details once."""
    if part is not None:
        return ()
    part_id = event.payload.entity_id
    return (
        Action(
            kind=PART_DETAILS,
            key=f"{PART_DETAILS}:{part_id}",
            subject=part_id,
            request=PartDetailsRequest(part_id=part_id),
            event_id=event.event_id,
        ),
    )
