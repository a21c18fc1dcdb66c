"""The changes of a return that are published to subscribers."""

from consumers.returns.decide import Return
from schemas.changes import ReturnState


def change_type(before: Return | None, after: Return) -> str:
    """`return.opened` is sent when the creation arrives, which may be after an update."""
    is_opened = after.opened_at is not None and (before is None or before.opened_at is None)
    kind = "opened" if is_opened else "updated"
    return f"return.{kind}"


def public_state(row: Return) -> ReturnState:
    return ReturnState(
        return_id=row.return_id,
        order_id=row.order_id,
        opened_at=row.opened_at,
        updated_at=row.updated_at,
        update_count=row.update_count,
        is_listed=not row.is_gone,
    )
