"""The column `summary` of a part's row: what its next decisions depend on besides the other columns."""

from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from consumers.inventory.part import Part, Received, Reports
from consumers.inventory.status import StatusChange


def summary_of(part: Part) -> str | None:
    """None for most parts. It holds the revision that the row is saved with: see `summarized`."""
    if part.is_written_off:
        values: dict[str, Any] = {"written_off_since": part.written_off_since}
    elif part.reports is not None:
        values = {
            "newest": _received(part.reports.newest),
            "last": _received(part.reports.last),
            "warning": _change(part.reports.warning),
        }
    elif part.is_crowded:
        values = {"is_crowded": True}
    else:
        return None
    return orjson.dumps({"revision": part.revision + 1, **values}).decode()


def summarized(part: Part, summary: str | None) -> Part:
    """The part with the values of its summary.

    An earlier release changes a row without its summary: then the summary has another revision than the row.
    """
    if summary is None:
        return replace(part, is_current=False) if _needs_summary(part) else part
    values = orjson.loads(summary)
    if values["revision"] != part.revision:
        return replace(part, is_current=part.is_current and not _needs_summary(part))
    if part.is_written_off:
        return replace(part, written_off_since=datetime.fromisoformat(values["written_off_since"]))
    if part.has_implausible:
        newest, last = _read_received(values["newest"]), _read_received(values["last"])
        return replace(part, reports=Reports(newest, last, _read_change(values["warning"])))
    return replace(part, is_crowded="is_crowded" in values)


def _needs_summary(part: Part) -> bool:
    return part.is_written_off or part.has_implausible


def _change(change: StatusChange | None) -> dict[str, Any] | None:
    if change is None:
        return None
    return {"status": change.status, "occurred_at": change.occurred_at, "event_id": str(change.event_id)}


def _received(received: Received | None) -> dict[str, Any] | None:
    change = _change(received.change) if received else None
    return {**change, "received_at": received.received_at} if received and change else None


def _read_change(values: dict[str, str] | None) -> StatusChange | None:
    if values is None:
        return None
    occurred_at, event_id = datetime.fromisoformat(values["occurred_at"]), UUID(values["event_id"])
    return StatusChange.of_status(values["status"], occurred_at, event_id)


def _read_received(values: dict[str, str] | None) -> Received | None:
    change = _read_change(values)
    if values is None or change is None:
        return None
    return Received(change, datetime.fromisoformat(values["received_at"]))
