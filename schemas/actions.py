"""Actions: requests to a marketplace that events require."""

from dataclasses import dataclass
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict


class ActionRequest(BaseModel):
    """The request of an action. It is stored as JSON until the action is done."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class RepeatPickupRequest(ActionRequest):
    """Another pickup of a buyback order, after one that was missed at this time."""

    order_id: str
    missed_at: AwareDatetime


class PartDetailsRequest(ActionRequest):
    """Request a part's details from Ovoko."""

    part_id: str


class ReturnDetailsRequest(ActionRequest):
    """Request a return's details from Ovoko."""

    return_id: str


@dataclass(frozen=True, slots=True)
class Action:
    """There is one action per `key`, however often it is required. `subject` is the entity's id."""

    kind: str
    key: str
    subject: str
    request: ActionRequest
    event_id: UUID | None


REREQUEST_PICKUP = "buyback.rerequest_pickup"
PART_DETAILS = "ovoko.part_details"
RETURN_DETAILS = "ovoko.return_details"
