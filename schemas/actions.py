"""Actions that events call for: what is then to be asked of a marketplace."""

from dataclasses import dataclass
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict


class ActionRequest(BaseModel):
    """What an action asks for; it is kept as JSON until it is done."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class RepeatPickupRequest(ActionRequest):
    """Another pickup of a trade-in order, for the one that was missed at this time."""

    order_id: str
    missed_at: AwareDatetime


class PartDetailsRequest(ActionRequest):
    """What Ovoko knows of a part."""

    part_id: str


class ReturnDetailsRequest(ActionRequest):
    """What Ovoko knows of a return, now that an event has come of it."""

    return_id: str


@dataclass(frozen=True, slots=True)
class Action:
    """Of one `key` there is one action, however often it is called for. `subject` is the entity."""

    kind: str
    key: str
    subject: str
    request: ActionRequest
    event_id: UUID | None


REREQUEST_PICKUP = "buyback.rerequest_pickup"
PART_DETAILS = "ovoko.part_details"
RETURN_DETAILS = "ovoko.return_details"
