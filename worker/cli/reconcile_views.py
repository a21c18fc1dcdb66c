"""The output of a reconciliation: as tables, or as JSON."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table

from worker.observability.inert_text import visible
from worker.tools.reconcile.applying import AppliedObservations
from worker.tools.reconcile.difference import Difference
from worker.tools.reconcile.reconciliation import Reconciled

SHOWN = 100
WIDEST_CELL = 60

What = Literal["parts", "returns"]

AnyReconciled = Reconciled[Any]


def as_json(
    result: AnyReconciled,
    applied: AppliedObservations | None,
    marketplace: str,
    what: What,
    since: datetime | None,
) -> dict[str, Any]:
    """Durations are seconds."""
    listing = result.listing
    return {
        "marketplace": marketplace,
        "what": what,
        "since": since,
        "listed": listing.entities,
        "total_count": listing.total_count,
        "pages": listing.pages,
        "listed_twice": listing.repeated,
        "not_listed_at_least": listing.slipped,
        "unreadable_rows": listing.unreadable,
        "unreadable": listing.reasons,
        "odd_fields": dict(sorted(listing.unreadable_fields.items())),
        "here": result.ours,
        "looked_at_again": result.doubts - result.unchecked,
        "unchecked": result.unchecked,
        "unanswered": [{"id": one, "reason": reason} for one, reason in result.unanswered.items()],
        "differences": [_difference_as_json(one, result.ended_at) for one in result.differences],
        "drift": len(result.drift),
        "is_conclusive": result.is_conclusive,
        "applied": None if applied is None else _applied_as_json(applied, result.ended_at),
        "seconds": round(result.seconds, 3),
    }


def _applied_as_json(applied: AppliedObservations, now: datetime) -> dict[str, Any]:
    return {
        "sent": applied.sent,
        "applied": applied.applied,
        "still_different": [_difference_as_json(one, now) for one in applied.differences],
    }


def _difference_as_json(one: Difference, now: datetime) -> dict[str, Any]:
    return {
        "id": one.entity_id,
        "kind": one.kind.replace(" ", "_"),
        "column": one.column,
        "here": one.here,
        "there": one.there,
        "here_at": one.here_at,
        "there_at": one.there_at,
        "may_be_under_way": one.is_under_way(now),
    }


def as_tables(result: AnyReconciled, what: What) -> RenderableType:
    """For a terminal."""
    rows = Table(what.removesuffix("s"), "", "column", "here", "there", "here since", "there since")
    for one in result.differences[:SHOWN]:
        kind = f"{one.kind}, may be under way" if one.is_under_way(result.ended_at) else str(one.kind)
        cells = (one.entity_id, kind, one.column, one.here or "", one.there or "")
        rows.add_row(*map(_inert, cells), _instant(one.here_at), _instant(one.there_at))
    lines = list(_lines(result))
    return Group(rows, *lines) if result.differences else Group(*lines)


def applied_as_text(applied: AppliedObservations) -> RenderableType:
    """For a terminal."""
    lines = [f"{applied.sent:,} observations sent, {applied.applied:,} of them applied"]
    if applied.applied < applied.sent:
        lines.append("the rest waits, or failed: see `stockhook status`, and `stockhook dead list`")
    for one in applied.differences[:SHOWN]:
        here = "nothing" if one.here is None else _inert(one.here)
        lines.append(f"{_inert(one.entity_id)} still differs, here {one.column} is {here}")
    if applied.differences and applied.applied == applied.sent:
        lines.append("a newer event is known for these, or they are written off: see `stockhook explain`")
    return Group(*lines)


def _lines(result: AnyReconciled) -> Iterator[str]:
    listing = result.listing
    counted = "" if listing.total_count is None else f" of {listing.total_count:,}"
    yield (
        f"{listing.entities:,}{counted} listed there, on {listing.pages:,} pages; "
        f"{result.ours:,} rows here; {result.doubts:,} seemed different, {len(result.differences):,} differ"
    )
    if len(result.differences) > SHOWN:
        yield f"the first {SHOWN} are shown; --json has all"
    under_way = len(result.differences) - len(result.drift)
    if under_way:
        yield f"{under_way:,} changed recently, here or there: one side may be behind the other"
    if result.unchecked:
        yield f"{result.unchecked:,} more seemed different and were not checked again: raise --most"
    if listing.repeated:
        yield f"the list changed while it was read: {listing.repeated:,} were on two pages"
    if listing.slipped:
        yield (
            f"{listing.slipped:,} or more were on no page in two readings: "
            "whether they are missing here is not known"
        )
    if listing.unreadable:
        yield f"{listing.unreadable:,} rows of the list could not be read: whether these differ is not known"
    for reason in listing.reasons[:SHOWN]:
        yield _inert(reason)
    for name, rows in sorted(listing.unreadable_fields.items()):
        yield f"{name} could not be read in {rows:,} rows, and counts as absent there"
    for entity_id, reason in list(result.unanswered.items())[:SHOWN]:
        yield f"{_inert(entity_id)} could not be checked again: {_inert(reason)}"
    if not result.differences and result.is_conclusive:
        yield "no differences"


def _inert(text: str) -> str:
    """Foreign text that is safe in a table cell."""
    return visible(text)[:WIDEST_CELL]


def _instant(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
