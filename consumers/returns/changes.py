"""The changes of a return that are published to subscribers."""

from consumers.returns.decide import Return
from schemas.changes import ReturnState


def change_type(before: Return | None, after: Return) -> str:
    """Opened when its opening becomes known, which may be after an update of it."""
    is_opened = after.opened_at is not None and (before is None or before.opened_at is None)
    kind = "opened" if is_opened else "updated"
    return f"return.{kind}"


def public_state(known: Return) -> ReturnState:
    return ReturnState(
        return_id=known.return_id,
        order_id=known.order_id,
        opened_at=known.opened_at,
        updated_at=known.updated_at,
        update_count=known.update_count,
        is_listed=not known.is_gone,
    )
