"""What subscribers are told of a return."""

from consumers.returns.decide import Return
from schemas.changes import ReturnState


def change_type(before: Return | None, after: Return) -> str:
    """Opened when its opening becomes known, which may be after an update of it."""
    is_opened = after.opened_at is not None and (before is None or before.opened_at is None)
    kind = "opened" if is_opened else "updated"
    return f"return.{kind}"


def visible(known: Return) -> ReturnState:
    return ReturnState(known.return_id, known.order_id, known.opened_at, known.updated_at, known.update_count)
