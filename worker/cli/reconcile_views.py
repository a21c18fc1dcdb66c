"""What a reconciliation found and came to: as tables, or as JSON."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table

from worker.observability.inert_text import visible
from worker.tools.reconcile.applying import Applied
from worker.tools.reconcile.difference import Difference
from worker.tools.reconcile.reconciliation import Reconciled

SHOWN = 100
WIDEST_CELL = 60

What = Literal["parts", "returns"]

AnyReconciled = Reconciled[Any]


def as_json(
    found: AnyReconciled, applied: Applied | None, marketplace: str, what: What, since: datetime | None
) -> dict[str, Any]:
    """Durations are seconds."""
    listing = found.listing
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
        "odd_fields": dict(sorted(listing.odd_fields.items())),
        "here": found.ours,
        "looked_at_again": found.doubts - found.unchecked,
        "unchecked": found.unchecked,
        "unanswered": [{"id": one, "reason": reason} for one, reason in found.unanswered.items()],
        "differences": [_difference_as_json(one, found.ended_at) for one in found.differences],
        "drift": len(found.drift),
        "is_conclusive": found.is_conclusive,
        "applied": None if applied is None else _applied_as_json(applied, found.ended_at),
        "seconds": round(found.seconds, 3),
    }


def _applied_as_json(applied: Applied, now: datetime) -> dict[str, Any]:
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


def as_tables(found: AnyReconciled, what: What) -> RenderableType:
    """For a terminal."""
    rows = Table(what.removesuffix("s"), "", "column", "here", "there", "here since", "there since")
    for one in found.differences[:SHOWN]:
        kind = f"{one.kind}, may be under way" if one.is_under_way(found.ended_at) else str(one.kind)
        cells = (one.entity_id, kind, one.column, one.here or "", one.there or "")
        rows.add_row(*map(_plain, cells), _instant(one.here_at), _instant(one.there_at))
    lines = list(_lines(found))
    return Group(rows, *lines) if found.differences else Group(*lines)


def applied_in_words(applied: Applied) -> RenderableType:
    """For a terminal."""
    lines = [f"{applied.sent:,} observations sent, {applied.applied:,} of them applied"]
    if applied.applied < applied.sent:
        lines.append("the rest waits, or failed: see `stockhook status`, and `stockhook dead list`")
    for one in applied.differences[:SHOWN]:
        here = "nothing" if one.here is None else _plain(one.here)
        lines.append(f"{_plain(one.entity_id)} still differs, here {one.column} is {here}")
    if applied.differences and applied.applied == applied.sent:
        lines.append("something newer is known of these, or they are written off: see `stockhook explain`")
    return Group(*lines)


def _lines(found: AnyReconciled) -> Iterator[str]:
    listing = found.listing
    counted = "" if listing.total_count is None else f" of {listing.total_count:,}"
    yield (
        f"{listing.entities:,}{counted} listed there, on {listing.pages:,} pages; "
        f"{found.ours:,} rows here; {found.doubts:,} looked different, {len(found.differences):,} are"
    )
    if len(found.differences) > SHOWN:
        yield f"the first {SHOWN} are shown; --json has all"
    under_way = len(found.differences) - len(found.drift)
    if under_way:
        yield f"{under_way:,} changed just now, here or there: one may still be behind the other"
    if found.unchecked:
        yield f"{found.unchecked:,} more looked different and were not looked at again: give --most"
    if listing.repeated:
        yield f"the list moved while it was read: {listing.repeated:,} were on two pages"
    if listing.slipped:
        yield (
            f"{listing.slipped:,} or more slipped from page to page in two readings: "
            "whether they are missing here is not known"
        )
    if listing.unreadable:
        yield f"{listing.unreadable:,} rows of the list could not be read: whether these differ is not known"
    for reason in listing.reasons[:SHOWN]:
        yield _plain(reason)
    for name, rows in sorted(listing.odd_fields.items()):
        yield f"{name} could not be read in {rows:,} rows, and counts as absent there"
    for entity_id, reason in list(found.unanswered.items())[:SHOWN]:
        yield f"{_plain(entity_id)} could not be looked at again: {_plain(reason)}"
    if not found.differences and found.is_conclusive:
        yield "both say the same"


def _plain(text: str) -> str:
    """Foreign text that is safe in a table cell."""
    return visible(text)[:WIDEST_CELL]


def _instant(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
