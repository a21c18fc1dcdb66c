"""The changes of a part that are published to subscribers."""

from consumers.inventory.part import Part
from consumers.inventory.status import SOLD, is_documented
from schemas.changes import PartState


def change_type(before: Part | None, after: Part) -> str:
    """One type for all kinds of sale: the state has the exact status."""
    status = after.latest.status
    if before is not None and before.latest.status == status:
        return "part.updated"
    kind = "sold" if status in SOLD else status if is_documented(status) else "updated"
    return f"part.{kind}"


def public_state(part: Part) -> PartState:
    return PartState(part.part_id, part.latest.status, part.latest.occurred_at, part.external_id)
