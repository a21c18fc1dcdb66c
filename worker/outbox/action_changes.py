"""What operators read of one action, and do to it: retry and close, recorded with their names."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson

from schemas.trace_context import TRACE_IDS, recorded_trace
from worker.observability.errors import StockhookError
from worker.outbox import action_list, actions
from worker.postgres.operator_audit import record
from worker.postgres.pool import Connection, Database

RETRIED = "action.retried"
CLOSED = "action.closed"

# The outcome of a request that is under way for this long is unknown: see RETRY.
REPEATED = "its outcome is unknown, and it may be executed twice"


# In the order of TRACE_IDS.
_CONTEXTS = ("published_traceparent", "traceparent")


class NotChanged(StockhookError):
    """The action does not exist, or its state allows no such change. The text says which."""


async def retry(
    database: Database, action_id: UUID, who: str, reason: str | None = None, *, may_repeat: bool
) -> None:
    """Make an action due again that was refused, failed, or has an unknown outcome.

    Without `may_repeat`, one with an unknown outcome is not retried: it may be executed twice.

    Raises:
        NotChanged
    """
    outcome = {"retried_by": who} | ({} if reason is None else {"reason": reason})
    async with database.transaction() as connection:
        if not await actions.retry(connection, action_id, outcome, may_repeat=may_repeat):
            raise await _not_changed(connection, action_id, may_repeat=may_repeat)
        await record(connection, who, RETRIED, str(action_id), reason)


async def close(database: Database, action_id: UUID, who: str, reason: str) -> None:
    """Mark an action as done, because the operator knows that it was done or is not needed.

    Raises:
        NotChanged
    """
    async with database.transaction() as connection:
        if not await actions.close(connection, action_id, {"closed_by": who, "reason": reason}):
            raise await _not_changed(connection, action_id)
        await record(connection, who, CLOSED, str(action_id), reason)


async def _not_changed(connection: Connection, action_id: UUID, *, may_repeat: bool = True) -> NotChanged:
    action = await action_list.get(connection, action_id)
    if action is None:
        return NotChanged(f"there is no action {action_id}")
    if action["state"] == "unknown" and not may_repeat:
        return NotChanged(f"{REPEATED}: nothing was changed")
    return NotChanged(f"it is {action['state']}: nothing was changed")


def shown(action: Mapping[str, Any]) -> dict[str, Any]:
    """All that is known about an action, without an encrypted request.

    Its trace has its attempts; its origin is the trace of the event that caused it.
    """
    rest = {name: value for name, value in action.items() if name not in ("request", *_CONTEXTS)}
    traces = zip(TRACE_IDS, (recorded_trace(action[name]) for name in _CONTEXTS), strict=True)
    request = None if action["is_encrypted"] else orjson.loads(action["request"])
    return {**rest, **dict(traces), "request": request}


def trace_ids(shown: Mapping[str, Any]) -> dict[str, str]:
    """The recorded traces of an action that is shown, by their names in TRACE_IDS."""
    return {name: shown[name] for name in TRACE_IDS if shown[name] is not None}
